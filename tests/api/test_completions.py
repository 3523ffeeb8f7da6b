"""Texts continued as OpenAI's own client asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
import torch

from adapter_service.api.services import Services

if TYPE_CHECKING:
    from openai.types import Completion, CompletionUsage

    from adapter_service.model_utils import BaseModel

LONG_ENOUGH: dict[str, Any] = {"min_tokens": 8}


def ask(client: openai.OpenAI, prompt: Any = "Once upon a time", **fields: Any) -> Completion:
    given = {"model": "base", "max_tokens": 8, "extra_body": LONG_ENOUGH, **fields}
    answer: Completion = client.completions.create(prompt=prompt, **given)
    return answer


def used(answer: Completion) -> CompletionUsage:
    assert answer.usage is not None
    return answer.usage


def streamed(client: openai.OpenAI, prompt: Any, **fields: Any) -> dict[int, str]:
    given = {"model": "base", "max_tokens": 8, "extra_body": LONG_ENOUGH, **fields}
    found: dict[int, str] = {}
    for chunk in client.completions.create(prompt=prompt, stream=True, **given):
        for choice in chunk.choices:
            found[choice.index] = found.get(choice.index, "") + choice.text
    return found


@pytest.mark.model
def test_the_small_base_continues_a_text(model_openai: openai.OpenAI) -> None:
    answer = ask(model_openai, "The capital of France is", temperature=0, extra_body={})
    assert "Paris" in answer.choices[0].text
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")


def test_sixteen_tokens_are_made_where_no_number_is_given(tiny_openai: openai.OpenAI) -> None:
    answer = ask(tiny_openai, max_tokens=None, extra_body={"min_tokens": 16})
    assert used(answer).completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_a_prompt_as_text_is_the_prompt_as_its_ids(tiny_openai: openai.OpenAI, tiny_services: Services) -> None:
    ids = tiny_services.engine.renderer.text_ids("One two")
    as_text, as_ids, in_lists = (ask(tiny_openai, prompt, seed=1) for prompt in ("One two", ids, [ids]))
    assert as_text.choices[0].text == as_ids.choices[0].text == in_lists.choices[0].text


def test_several_prompts_have_their_answers_one_after_the_other(tiny_openai: openai.OpenAI) -> None:
    answer = ask(tiny_openai, ["One", "Two"], n=2, seed=1)
    alone = [choice.text for prompt in ("One", "Two") for choice in ask(tiny_openai, prompt, n=2, seed=1).choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == alone
    assert (used(answer).prompt_tokens, used(answer).completion_tokens) == (8, 32)


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_has_the_texts_of_the_answer_at_once(tiny_openai: openai.OpenAI, echo: bool) -> None:
    whole = ask(tiny_openai, ["One", "Two"], n=2, seed=1, echo=echo)
    found = streamed(tiny_openai, ["One", "Two"], n=2, seed=1, echo=echo)
    assert found == {choice.index: choice.text for choice in whole.choices}
    assert whole.choices[0].text.startswith("One") is echo


def test_the_best_of_several_has_the_highest_mean_logprob(tiny_openai: openai.OpenAI) -> None:
    every = ask(tiny_openai, n=5, seed=3, logprobs=0).choices
    best = max(every, key=lambda choice: sum((choice.logprobs and choice.logprobs.token_logprobs) or [-1e9]))
    answer = ask(tiny_openai, best_of=5, seed=3)
    assert [choice.text for choice in answer.choices] == [best.text]
    assert used(answer).completion_tokens == 40


def test_logprobs_are_lists_of_one_length_that_spell_the_answer(tiny_openai: openai.OpenAI) -> None:
    choice = ask(tiny_openai, "abc", temperature=0, logprobs=0, logit_bias={"67": 100}).choices[0]
    assert choice.logprobs is not None
    found: dict[str, Any] = choice.logprobs.to_dict()
    tokens, places, top = (found[name] for name in ("tokens", "text_offset", "top_logprobs"))
    assert {len(values) for values in found.values()} == {8}
    assert places == [sum(map(len, tokens[:place])) for place in range(8)]
    assert [best[token] for best, token in zip(top, tokens, strict=True)] == found["token_logprobs"]


@pytest.mark.parametrize("wanted", [0, 1, 8])
@pytest.mark.parametrize("prompt", ["A longer beginning, " * 7, "ab"])
def test_an_echoed_prompt_has_the_logprobs_that_transformers_gives_it(
    tiny_openai: openai.OpenAI, tiny_base: BaseModel, prompt: str, wanted: int
) -> None:
    answer = ask(tiny_openai, prompt, max_tokens=wanted, echo=True, logprobs=3, seed=1, extra_body={})
    assert used(answer).completion_tokens <= wanted
    choice = answer.choices[0]
    assert choice.logprobs
    found: dict[str, Any] = choice.logprobs.to_dict()
    ids = tiny_base.tokenizer(prompt)["input_ids"]
    with torch.inference_mode():
        logprobs = tiny_base.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    told, top = found["token_logprobs"], found["top_logprobs"]
    assert (told[0], top[0]) == (None, None)
    assert told[1 : len(ids)] == pytest.approx(logprobs[range(len(ids) - 1), ids[1:]].tolist(), abs=1e-4)
    for place in range(1, len(ids)):
        assert max(top[place].values()) == pytest.approx(float(logprobs[place - 1].max()), abs=1e-4)
        assert found["tokens"][place] in top[place]
    assert {len(values) for values in found.values()} == {len(ids) + used(answer).completion_tokens}
    assert found["tokens"][0] == tiny_base.tokenizer.bos_token
    assert "".join(found["tokens"][1 : len(ids)]) == prompt
    assert found["text_offset"] == [0, *range(len(found["text_offset"]) - 1)]  # each token is a byte
    assert choice.text.startswith(prompt)


def test_a_prompt_is_scored_whole_though_its_beginning_was_read_before(tiny_openai: openai.OpenAI) -> None:
    prompt, fields = "Read before, and longer than a chunk. " * 3, {"max_tokens": 1, "temperature": 0}
    once, again = (ask(tiny_openai, prompt, **fields, extra_body={}) for _ in range(2))
    details = used(again).prompt_tokens_details
    assert details is not None
    assert details.cached_tokens
    scored = ask(tiny_openai, prompt, **fields, echo=True, logprobs=0, n=2, extra_body={})
    for choice in scored.choices:
        assert choice.logprobs is not None
        told: list[Any] = choice.logprobs.to_dict()["token_logprobs"]  # type: ignore[assignment]
        assert [place for place, logprob in enumerate(told) if logprob is None] == [0]
        assert choice.text == prompt + once.choices[0].text


def test_a_prompt_that_is_echoed_alone_needs_no_answer(tiny_openai: openai.OpenAI) -> None:
    answer = ask(tiny_openai, ["One", "Two"], max_tokens=0, echo=True, extra_body={})
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("One", "length"), ("Two", "length")]


@pytest.mark.parametrize(
    ("prompt", "fields", "parameter"),
    [
        ("x", {"suffix": "y"}, "suffix"),
        ("x", {"best_of": 2, "n": 3}, "best_of"),
        ("x", {"best_of": 2, "stream": True}, "best_of"),
        ("x", {"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ("x", {"max_tokens": 0, "extra_body": {}}, "max_tokens"),
        ("x", {"logprobs": 6}, "logprobs"),
        ([70_000], {}, "prompt"),
        ([], {}, "prompt"),
        (["x"] * 5, {}, "prompt"),
        ({"x": 1}, {}, "prompt"),
    ],
)
def test_what_cannot_be_is_a_bad_request_that_names_its_field(
    tiny_openai: openai.OpenAI, prompt: Any, fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(tiny_openai, prompt, **fields)
    assert refused.value.param == parameter
