"""Prompts of random bases of every family, read by compiled code, against transformers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from adapter_service.base_models.threads import on_threads
from adapter_service.decoding.decoder import Decoder, Workspace
from adapter_service.decoding.families import architecture_of
from adapter_service.decoding.tables import Rows
from adapter_service.decoding.weights import Packing
from adapter_service.lora.layer import install, using
from adapter_service.lora.resident import ResidentAdapter
from tests.decoding.random_bases import (
    CAPACITY,
    FAMILIES,
    PACKINGS,
    SIZES_OF_GROUPS,
    Caches,
    distance,
    logits_of,
    made_adapter,
    one_step,
    random_model,
    some_tokens,
)

# Whole numbers of blocks.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}


def model_of_blocks(name: str) -> Any:
    return random_model(name, torch.bfloat16, **SIZES)


def reader(model: Any, packing: Packing = "as_loaded", *, in_pairs: bool = True) -> Decoder:
    """On this processor, whether it multiplies pairs or not."""
    return Decoder(architecture_of(model), packing, in_pairs=in_pairs)


def read(
    decoder: Decoder,
    caches: Caches,
    tokens: list[int],
    start: int = 0,
    *,
    wanted: int | None = None,
    adapter: ResidentAdapter | None = None,
    scale: float = 1.0,
    pause: Any = None,
) -> torch.Tensor:
    count = len(tokens)
    rows = Rows(
        tokens=np.array(tokens, np.int64),
        positions=np.arange(start, start + count, dtype=np.int64),
        caches=np.repeat(caches.addresses, count, axis=0),
        strides=np.repeat(caches.strides, count),
        adapters=np.repeat(decoder.adapter_table(adapter)[None], count, axis=0),
        strengths=np.full(count, scale, np.float32),
        wanted=count if wanted is None else wanted,
    )
    return decoder.read(rows, Workspace(), pause)


@pytest.mark.parametrize("packing", ["as_loaded", "int8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_about_as_near_to_what_the_weights_come_to_as_transformers(name: str, packing: Any) -> None:
    """By the base's own weights, however those are packed for steps; also beyond windows, and from piece to piece."""
    model, tokens = model_of_blocks(name), some_tokens(100)
    exact = logits_of(copy.deepcopy(model).float(), tokens)
    decoder, caches = reader(model, packing), Caches(model, [CAPACITY])
    pieces = [(0, 64), (64, 65), (65, 98), (98, 100)]
    found = torch.cat([read(decoder, caches, tokens[start:end], start) for start, end in pieces])
    assert distance(found, exact) <= 1.2 * distance(logits_of(model, tokens), exact)


@pytest.mark.parametrize("name", ["llama-biases", "gemma3"])
def test_with_an_adapter(name: str) -> None:
    model, tokens = model_of_blocks(name), some_tokens(70)
    layers = install(model, keep=model.get_output_embeddings())
    adapter = made_adapter(layers, 1)
    served = ResidentAdapter.of("served", adapter, torch.float32, torch.device("cpu"))
    decoder, half = reader(model), adapter.frozen_copy(torch.float32)
    for pair in half.pairs.values():
        pair.scale /= 2
    with using(half):
        exact = logits_of(copy.deepcopy(model).float(), tokens)
        theirs = distance(logits_of(model, tokens), exact)
    plain = read(decoder, Caches(model, [CAPACITY]), tokens)
    found = read(decoder, Caches(model, [CAPACITY]), tokens, adapter=served, scale=0.5)
    assert distance(found, exact) <= 1.3 * theirs
    assert distance(plain, exact) > 3 * theirs


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_come_to_what_one_comes_to(threads: int) -> None:
    model, tokens = model_of_blocks("gemma3"), some_tokens(64)
    decoder, alone, shared = reader(model), Caches(model, [64]), Caches(model, [64])
    with on_threads(1):
        wanted = read(decoder, alone, tokens)
    with on_threads(threads):
        found = read(decoder, shared, tokens)
    assert torch.equal(found, wanted)
    assert torch.equal(shared.tensors[0], alone.tensors[0])


@pytest.mark.parametrize(("packing", "dtype"), PACKINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_without_pairs_they_come_to_the_bits_of_steps(name: str, packing: Packing, dtype: torch.dtype) -> None:
    """Token after token, also beyond windows, from piece to piece, with an adapter, and on any number of threads."""
    sizes = SIZES_OF_GROUPS if packing == "int8" else {}
    model, tokens = random_model(name, dtype, **sizes), some_tokens(200)
    layers = install(model, keep=model.get_output_embeddings())
    adapter = ResidentAdapter.of("served", made_adapter(layers, 1), torch.float32, torch.device("cpu"))
    decoder, caches = reader(model, packing, in_pairs=False), Caches(model, [CAPACITY])
    alone = Caches(model, [CAPACITY])
    wanted = torch.cat([one_step(decoder, alone, [token], [place], [adapter]) for place, token in enumerate(tokens)])
    found = []
    for start, end, threads in ((0, 64, 1), (64, 65, 1), (65, 98, 3), (98, 100, 1), (100, 200, 3)):
        with on_threads(threads):
            found.append(read(decoder, caches, tokens[start:end], start, adapter=adapter))
    assert torch.equal(torch.cat(found), wanted)
    kept, wanted_kept = (one.tensors[0][:, :, :, : len(tokens)] for one in (caches, alone))
    assert torch.equal(kept, wanted_kept)


@pytest.mark.parametrize("in_pairs", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("wanted", [0, 1, 20, 64])
def test_logits_are_made_of_the_last_tokens_alone(wanted: int, threads: int, *, in_pairs: bool) -> None:
    model, tokens = model_of_blocks("llama"), some_tokens(64)
    decoder = reader(model, in_pairs=in_pairs)
    with on_threads(threads):
        everyone = read(decoder, Caches(model, [64]), tokens)
        found = read(decoder, Caches(model, [64]), tokens, wanted=wanted)
    assert found.shape == (wanted, everyone.shape[1])
    assert torch.equal(found, everyone[64 - wanted :])


@pytest.mark.parametrize("in_pairs", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_reading_pauses_before_every_layer(threads: int, *, in_pairs: bool) -> None:
    model, tokens = model_of_blocks("llama"), some_tokens(20)
    decoder, pauses = reader(model, in_pairs=in_pairs), 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        read(decoder, Caches(model, [64]), [9] * 30)

    with on_threads(threads):
        wanted = read(decoder, Caches(model, [64]), tokens)
        found = read(decoder, Caches(model, [64]), tokens, pause=pause)
    assert torch.equal(found, wanted)
    assert pauses == 3


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float32, SIZES),
        (torch.bfloat16, {**SIZES, "hidden_size": 72}),
        (torch.bfloat16, {**SIZES, "head_dim": 24}),
        (torch.bfloat16, {**SIZES, "intermediate_size": 100}),
    ],
)
def test_what_is_not_made_of_pairs_is_read_as_it_is(dtype: torch.dtype, sizes: dict[str, int]) -> None:
    assert not reader(random_model("llama", dtype, **sizes)).reads_pairs
    assert reader(model_of_blocks("llama")).reads_pairs
    assert not reader(model_of_blocks("llama"), in_pairs=False).reads_pairs
