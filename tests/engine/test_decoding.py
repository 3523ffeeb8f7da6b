"""Answers against transformers' own, alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from adapter_service.engine.requests import Sampling
from adapter_service.languages.scripts import script_of
from adapter_service.lora.layer import install
from tests.answers_by_batch import answers, decode

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

PROMPTS = ["The capital of France is", "नमस्ते", "1, 2, 3, 4,", "def add(a, b):\n", "Once"]


def prompt_ids(base: BaseModel, prompts: Sequence[str] = PROMPTS) -> list[list[int]]:
    return [base.tokenizer(prompt)["input_ids"] for prompt in prompts]


def by_transformers(base: BaseModel, ids: list[int], **options: Any) -> list[int]:
    tokens = torch.tensor([ids])
    found: list[int] = base.model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, pad_token_id=0, **options
    )[0, len(ids) :].tolist()
    return [token for token in found if token not in base.eos_ids()]


def together(base: BaseModel, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
    return [answer.tokens for answer in answers(base, prompts, [sampling] * len(prompts))]


@pytest.mark.model
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_transformers_greedy_token_for_token(small_base: BaseModel, prompt: str) -> None:
    (ids,) = prompt_ids(small_base, [prompt])
    assert decode(small_base, ids, Sampling(max_new_tokens=12)) == by_transformers(small_base, ids, max_new_tokens=12)


@pytest.mark.model
def test_a_batch_answers_as_one_by_one(small_base: BaseModel) -> None:
    sampling = Sampling(max_new_tokens=12, repetition_penalty=1.2)
    prompts = prompt_ids(small_base)
    assert together(small_base, prompts, sampling) == [decode(small_base, ids, sampling) for ids in prompts]


def ends_of(tiny_base: BaseModel, prompts: Sequence[list[int]]) -> Sampling:
    """Two tokens that the first answers come to, as ends: so the sequences end at different steps."""
    first, second = (decode(tiny_base, ids, Sampling(max_new_tokens=12)) for ids in prompts[:2])
    return Sampling(max_new_tokens=12, extra_eos_ids=frozenset({first[3], second[7]}))


def test_sequences_that_end_leave_the_others_as_they_are(tiny_base: BaseModel) -> None:
    prompts = prompt_ids(tiny_base)
    sampling = ends_of(tiny_base, prompts)
    alone = [decode(tiny_base, ids, sampling) for ids in prompts]
    assert len({len(answer) for answer in alone}) > 2
    assert together(tiny_base, prompts, sampling) == alone


def test_places_are_counted_without_the_padding(tiny_base: BaseModel) -> None:
    """GPT-2 knows places by number; rotary ones are the same wherever a sequence begins."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    sizes = {"vocab_size": 258, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    config = GPT2Config(**sizes, eos_token_id=1, initializer_range=0.3)
    base = replace(tiny_base, model=GPT2LMHeadModel(config).eval())
    prompts, sampling = prompt_ids(base), Sampling(max_new_tokens=8, min_new_tokens=8)
    assert together(base, prompts, sampling) == [decode(base, ids, sampling) for ids in prompts]


def test_sampling_in_a_batch_is_as_alone(tiny_base: BaseModel) -> None:
    sampling = Sampling(max_new_tokens=12, do_sample=True, temperature=0.7, top_k=20, seed=5)
    prompts = prompt_ids(tiny_base)
    assert together(tiny_base, prompts, sampling) == [decode(tiny_base, ids, sampling) for ids in prompts]


def test_no_answer_ends_before_its_least_length(tiny_base: BaseModel) -> None:
    (ids,) = prompt_ids(tiny_base, ["Once"])
    first = decode(tiny_base, ids, Sampling())[0]
    ended = Sampling(max_new_tokens=8, extra_eos_ids=frozenset({first}))
    assert decode(tiny_base, ids, ended) == []
    least = Sampling(max_new_tokens=8, min_new_tokens=3, extra_eos_ids=frozenset({first}))
    answer = decode(tiny_base, ids, least)
    assert len(answer) >= 3
    assert first not in answer


def test_the_least_length_is_transformers_least_length(tiny_base: BaseModel) -> None:
    (ids,) = prompt_ids(tiny_base, ["Once"])
    answer = decode(tiny_base, ids, Sampling(max_new_tokens=30, min_new_tokens=30))
    assert answer == by_transformers(tiny_base, ids, max_new_tokens=30, min_new_tokens=30)
    assert len(answer) == 30


def test_an_answer_is_never_longer_than_allowed(tiny_base: BaseModel) -> None:
    (ids,) = prompt_ids(tiny_base, ["Once"])
    assert len(decode(tiny_base, ids, Sampling(max_new_tokens=5, min_new_tokens=5))) == 5


def test_the_pause_comes_at_every_layer_of_each_chunk_and_each_step(tiny_base: BaseModel) -> None:
    pauses: list[None] = []
    layers = install(tiny_base.model, keep=tiny_base.model.get_output_embeddings())
    sampling = Sampling(max_new_tokens=4, min_new_tokens=4)
    answers(tiny_base, prompt_ids(tiny_base)[:2], [sampling] * 2, pause=lambda: pauses.append(None))
    # Each prompt is one chunk and gives a token; three steps, which pause once in each decoder layer, give the rest.
    assert len(pauses) == 2 * len(layers) + 3 * tiny_base.model.config.num_hidden_layers


def test_each_of_a_batch_is_decoded_by_a_sampling_of_its_own(tiny_base: BaseModel) -> None:
    prompts = prompt_ids(tiny_base)[:3]
    samplings = [
        Sampling(max_new_tokens=9, min_new_tokens=9),
        Sampling(max_new_tokens=2, min_new_tokens=2),
        Sampling(max_new_tokens=6, do_sample=True, seed=4, script="Deva", foreign_script_penalty=100.0),
    ]
    found = [answer.tokens for answer in answers(tiny_base, prompts, samplings)]
    alone = [decode(tiny_base, ids, own) for ids, own in zip(prompts, samplings, strict=True)]
    assert found == alone
    assert [len(found[0]), len(found[1])] == [9, 2]


def test_an_answer_keeps_to_its_script_unless_nothing_is_taken_off(small_base: BaseModel) -> None:
    def letters(penalty: float) -> set[str | None]:
        sampling = Sampling(max_new_tokens=24, script="Grek", foreign_script_penalty=penalty)
        ids = small_base.tokenizer("The capital of France is")["input_ids"]
        return {script_of(character) for character in small_base.tokenizer.decode(decode(small_base, ids, sampling))}

    assert "Latn" in letters(0.0)
    assert "Latn" not in letters(100.0)
