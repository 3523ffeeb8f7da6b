"""Whole steps of random bases of every family against transformers, and bases that are none of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from adapter_service.base_models.int8 import quantize_linears
from adapter_service.base_models.threads import on_threads
from adapter_service.decoding import decoder as decoding
from adapter_service.decoding import step
from adapter_service.decoding.decoder import Decoder, Workspace
from adapter_service.decoding.families import NotComputedError, architecture_of
from adapter_service.decoding.tables import Rows
from adapter_service.decoding.weights import Packing
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.layer import install, using
from adapter_service.lora.resident import Factors, ResidentAdapter
from tests.decoding.conftest import NoHelpers
from tests.decoding.random_bases import (
    CAPACITY,
    FAMILIES,
    PACKINGS,
    SIZES,
    SIZES_OF_GROUPS,
    VOCABULARY,
    Caches,
    distance,
    logits_of,
    made_adapter,
    one_step,
    random_model,
    some_tokens,
)


def stepped(decoder: Decoder, model: Any, tokens: list[int]) -> torch.Tensor:
    """Logits (tokens, vocabulary), token after token."""
    caches = Caches(model, [CAPACITY])
    return torch.cat([one_step(decoder, caches, [token], [place]) for place, token in enumerate(tokens)])


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_of_every_family_come_to_transformers_logits(name: str) -> None:
    """Also beyond the windows that it looks through."""
    model, tokens = random_model(name), some_tokens(120)
    decoder = Decoder(architecture_of(model), "as_loaded")
    assert distance(stepped(decoder, model, tokens), logits_of(model, tokens)) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_in_bfloat16_they_are_about_as_near_to_what_the_weights_come_to_as_transformers(name: str) -> None:
    model, tokens = random_model(name, torch.bfloat16), some_tokens(60)
    exact = logits_of(copy.deepcopy(model).float(), tokens)
    found = stepped(Decoder(architecture_of(model), "as_loaded"), model, tokens)
    assert distance(found, exact) <= 1.2 * distance(logits_of(model, tokens), exact)


@pytest.mark.parametrize(("packing", "bound"), [("float16", 0.005), ("int8", 0.2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_weights_come_near(name: str, packing: Any, bound: float) -> None:
    model, tokens = random_model(name), some_tokens(40)
    found = distance(stepped(Decoder(architecture_of(model), packing), model, tokens), logits_of(model, tokens))
    assert 1e-6 < found < bound


def test_eight_bit_layers_are_read_as_they_are() -> None:
    model, tokens = random_model("gemma3", torch.bfloat16), some_tokens(40)
    quantize_linears(model, keep=model.get_output_embeddings())
    decoder = Decoder(architecture_of(model), "as_loaded")
    assert decoder.weight_kinds == ["int8", "bfloat16"]
    assert distance(stepped(decoder, model, tokens), logits_of(model, tokens)) < 0.05


@pytest.mark.parametrize("packing", ["float16", "int8"])
def test_where_there_is_nothing_to_copy_a_copy_is_refused(packing: Any) -> None:
    model = random_model("llama", torch.bfloat16)
    quantize_linears(model)
    with pytest.raises(NotComputedError, match=rf"of its weights \(int8\) there is nothing to copy as {packing}"):
        Decoder(architecture_of(model), packing)


def test_layers_that_are_wrapped_for_adapters_are_found() -> None:
    model, tokens = random_model("llama"), some_tokens(10)
    wanted = logits_of(model, tokens)
    install(model, keep=model.get_output_embeddings())
    assert distance(stepped(Decoder(architecture_of(model), "as_loaded"), model, tokens), wanted) < 1e-4


@pytest.mark.parametrize(("packing", "bound"), [("as_loaded", 1e-4), ("float16", 0.005), ("int8", 0.2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_several_adapters_lengths_and_capacities_go_together(name: str, packing: Any, bound: float) -> None:
    """Each as by a pass of the model with its adapter, and as alone to the bit."""
    model, texts = (
        random_model(name),
        [some_tokens(40)[start:end] for start, end in ((0, 40), (3, 33), (7, 40), (1, 9))],
    )
    layers = install(model, keep=model.get_output_embeddings())
    decoder = Decoder(architecture_of(model), packing)
    adapters = [made_adapter(layers, seed) for seed in range(2)]
    served = [ResidentAdapter.of(str(n), one, torch.float32, torch.device("cpu")) for n, one in enumerate(adapters)]
    of_rows: list[ResidentAdapter | None] = [served[0], served[1], None, served[0]]
    scales = [1.0, 0.5, 1.0, 1.0]
    together, alone = Caches(model, [64, 128, 64, 256]), Caches(model, [64, 64, 64, 64])
    logits: list[list[torch.Tensor]] = [[] for _ in texts]
    for place in range(40):
        rows = [row for row, text in enumerate(texts) if place < len(text)]
        some, by_itself = Caches(model, []), Caches(model, [])
        some.tensors = [together.tensors[row] for row in rows]
        tokens, chosen = [texts[row][place] for row in rows], [of_rows[row] for row in rows]
        found = one_step(decoder, some, tokens, [place] * len(rows), chosen, [scales[row] for row in rows])
        for row, of_row, token in zip(rows, found, tokens, strict=True):
            by_itself.tensors = [alone.tensors[row]]
            assert torch.equal(one_step(decoder, by_itself, [token], [place], [of_rows[row]], [scales[row]])[0], of_row)
            logits[row].append(of_row)
    for row, adapter in enumerate([adapters[0], halved(adapters[1]), None, adapters[0]]):
        with using(adapter):
            assert distance(torch.stack(logits[row]), logits_of(model, texts[row])) < bound


def halved(adapter: Adapter) -> Adapter:
    half = adapter.frozen_copy(torch.float32)
    for pair in half.pairs.values():
        pair.scale /= 2
    return half


def test_what_an_adapter_changes_beside_the_decoder_is_left_out() -> None:
    """As layers that see, which no text goes through."""
    model = random_model("llama")
    decoder = Decoder(architecture_of(model), "as_loaded")
    factors = Factors(torch.randn(8, 42), torch.randn(8, 120))
    of_text, of_pictures = "model.layers.1.self_attn.q_proj", "model.vision_tower.layers.0.self_attn.q_proj"
    table = decoder.adapter_table(ResidentAdapter("seen", 8, {of_text: factors, of_pictures: factors}))
    assert table[1, 0].tolist() == [factors.a.data_ptr(), factors.b.data_ptr(), 8]
    assert np.count_nonzero(table) == 3


@pytest.mark.parametrize(
    "factors",
    [
        Factors(torch.randn(42, 8).T, torch.randn(8, 120)),
        Factors(torch.randn(8, 41), torch.randn(8, 120)),
    ],
    ids=["transposed", "narrow"],
)
def test_factors_that_are_not_as_they_are_read_are_refused(factors: Factors) -> None:
    decoder = Decoder(architecture_of(random_model("llama")), "as_loaded")
    adapter = ResidentAdapter("odd", 8, {"model.layers.1.self_attn.q_proj": factors})
    with pytest.raises(ValueError, match=r"\[\(8, 42\), \(8, 120\)\] are wanted"):
        decoder.adapter_table(adapter)


def test_a_token_that_the_base_has_no_row_for_is_refused() -> None:
    model = random_model("llama")
    decoder = Decoder(architecture_of(model), "as_loaded")
    for token in (-1, VOCABULARY):
        with pytest.raises(IndexError, match=f"the base has 0 to {VOCABULARY - 1}"):
            one_step(decoder, Caches(model, [64]), [token], [0])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_texts_longer_than_the_first_rotary_tables(name: str) -> None:
    model, position = random_model(name), 2100
    decoder = Decoder(architecture_of(model), "as_loaded")
    caches = Caches(model, [4096])
    caches.tensors[0].normal_(generator=torch.Generator().manual_seed(1))
    past = transformers.DynamicCache()
    for number, (keys, values) in enumerate(caches.tensors[0]):
        past.update(keys[None, :, :position].clone(), values[None, :, :position].clone(), number)
    before = one_step(decoder, Caches(model, [64]), [5], [0])
    found = one_step(decoder, caches, [5], [position])
    with torch.no_grad():
        ids, positions = torch.tensor([[5]]), torch.tensor([[position]])
        wanted = model(input_ids=ids, position_ids=positions, past_key_values=past).logits[0, -1:]
    assert distance(found, wanted) < 1e-4
    assert torch.equal(one_step(decoder, Caches(model, [64]), [5], [0]), before)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_rows_that_threads_share_are_as_alone_to_the_bit(threads: int) -> None:
    model, count = random_model("gemma3"), 23
    decoder, tokens = Decoder(architecture_of(model), "as_loaded"), some_tokens(count)
    together, alone = Caches(model, [64] * count), Caches(model, [64])
    with on_threads(threads):
        found = [one_step(decoder, together, tokens[place:] + tokens[:place], [place] * count) for place in range(3)]
    for row in range(count):
        for place in range(3):
            wanted = one_step(decoder, alone, [tokens[(place + row) % count]], [place])
            assert torch.equal(found[place][row], wanted[0])


@pytest.mark.parametrize(("packing", "dtype"), PACKINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_in_however_many_parts_it_is_made_numbers_are_the_same(
    name: str, packing: Packing, dtype: torch.dtype, no_helpers: NoHelpers
) -> None:
    model, count = random_model(name, dtype, **(SIZES_OF_GROUPS if packing == "int8" else {})), 11
    layers = install(model, keep=model.get_output_embeddings())
    adapters = [
        ResidentAdapter.of(str(seed), made_adapter(layers, seed), torch.float32, torch.device("cpu")) for seed in (1, 2)
    ]
    mixed = [[None, *adapters][number] for number in (1, 1, 1, 2, 0, 2, 2, 2, 2, 1, 1)]
    decoder, tokens = Decoder(architecture_of(model), packing), some_tokens(count)
    found = {}
    for threads in (1, 2, 7):
        caches = Caches(model, [64] * count)
        with on_threads(threads):
            steps = [one_step(decoder, caches, tokens, [place] * count, mixed) for place in range(30)]
        found[threads] = torch.stack(steps)
    assert no_helpers.asked == 30 * (1 + 6)
    assert torch.equal(found[2], found[1])
    assert torch.equal(found[7], found[1])


@pytest.mark.parametrize("fails_at", [1, 3])
def test_where_no_more_threads_can_be_started_there_are_fewer(fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    decoder, submit, asked = Decoder(architecture_of(model), "as_loaded"), decoding._threads.submit, 0

    def failing(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == fails_at:
            raise RuntimeError("can't start new thread")
        return submit(*given)

    with on_threads(1):
        wanted = one_step(decoder, Caches(model, [64] * 5), [9] * 5, [0] * 5)
    monkeypatch.setattr(decoding._threads, "submit", failing)
    with on_threads(7):
        found = one_step(decoder, Caches(model, [64] * 5), [9] * 5, [0] * 5)
    assert asked == fails_at
    assert torch.equal(found, wanted)


def test_a_pass_that_fails_leaves_nobody_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers of a leader that has failed are gone before its memory is."""
    model = random_model("llama")
    decoder, whole, gone = Decoder(architecture_of(model), "as_loaded"), step.make_pass, []

    def failing(base: Any, rows: Any, room: Any, team: Any, worker: int, first: int, end: int) -> None:
        if worker == 0:
            raise MemoryError("no more")
        whole(base, rows, room, team, worker, first, end)
        gone.append(worker)

    monkeypatch.setattr("adapter_service.decoding.decoder.make_pass", failing)
    with on_threads(3), pytest.raises(MemoryError):
        one_step(decoder, Caches(model, [64]), [9], [0])
    assert set(gone) <= {1, 2}
    monkeypatch.undo()
    assert one_step(decoder, Caches(model, [64]), [9], [0]).isfinite().all()


def test_a_step_that_pauses_comes_to_the_same_whatever_is_made_in_its_pauses() -> None:
    model = random_model("llama")
    decoder = Decoder(architecture_of(model), "as_loaded")
    caches, other = Caches(model, [64]), Caches(model, [64] * 5)
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        one_step(decoder, other, [9] * 5, [0] * 5)

    rows = Rows(
        tokens=np.array([5], np.int64),
        positions=np.array([0], np.int64),
        caches=caches.addresses,
        strides=caches.strides,
        adapters=decoder.adapter_table(None)[None],
        strengths=np.ones(1, np.float32),
        wanted=1,
    )
    wanted = decoder.step(rows, Workspace())
    assert torch.equal(decoder.step(rows, Workspace(), pause), wanted)
    assert pauses == 3


REFUSED: dict[str, tuple[Any, str]] = {
    "another family": (
        transformers.PhiConfig(
            vocab_size=90, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        ),
        "'phi' is none of the families",
    ),
    "softcap": (
        transformers.Gemma3TextConfig(**SIZES, final_logit_softcapping=30.0),
        "config has final_logit_softcapping",
    ),
    "bidirectional": (
        transformers.Gemma3TextConfig(**SIZES, use_bidirectional_attention=True),
        "config has use_bidirectional_attention",
    ),
    "tables that change": (
        transformers.LlamaConfig(
            **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        ),
        "rotary tables change with the length",
    ),
    "tables that change with what they were made for": (
        transformers.LlamaConfig(
            **SIZES,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 10,
                "long_factor": [2.0] * 10,
                "original_max_position_embeddings": 64,
            },
        ),
        "rotary tables change with the length",
    ),
    "softcap of scores": (
        transformers.Gemma3TextConfig(**SIZES, attn_logit_softcapping=30.0),
        "config has attn_logit_softcapping",
    ),
    "activation": (transformers.LlamaConfig(**SIZES, hidden_act="relu"), "its activation"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_step_does_not_compute_is_refused_with_the_reason(config: Any, reason: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(NotComputedError, match=reason):
        architecture_of(model)


def test_weights_of_another_kind_are_refused() -> None:
    model = random_model("llama").to(torch.float16)
    with pytest.raises(NotComputedError, match="a step cannot read the weights of Linear"):
        Decoder(architecture_of(model), "as_loaded")


def test_a_base_that_is_not_on_the_processor_is_refused() -> None:
    with pytest.raises(NotComputedError, match="the base is on meta"):
        architecture_of(random_model("llama").to("meta"))


def test_a_processor_without_half_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapter_service.decoding.decoder.missing_instructions", lambda: ["F16C", "FMA"])
    with pytest.raises(NotComputedError, match="this processor has no F16C and no FMA"):
        Decoder(architecture_of(random_model("llama")), "as_loaded")


def test_a_norm_of_another_kind_is_refused() -> None:
    model = random_model("llama")
    model.model.layers[1].input_layernorm = torch.nn.LayerNorm(42)
    with pytest.raises(NotComputedError, match="LayerNorm is no norm that a step computes"):
        architecture_of(model)
