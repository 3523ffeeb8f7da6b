"""How steps are made: what is chosen, and what happens where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from adapter_service.decoding.decoder import Decoder
from adapter_service.engine import kernels, probe
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import Chosen, choose_batch
from adapter_service.errors import BaseModelError
from adapter_service.model_utils import BaseModel, load_base
from tests.engine.serial import greedy, mixed

if TYPE_CHECKING:
    from pathlib import Path

    from adapter_service.settings import KernelSetting


def chosen(base: BaseModel, kernel: KernelSetting = "auto") -> Chosen:
    return choose_batch(base, "plain", rows=3, prefixes=PrefixCache(CHUNK_TOKENS, 0), kernel=kernel)


@pytest.fixture
def own_base(tiny_base_folder: Path) -> BaseModel:
    """To be changed."""
    return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32")


def in_16_bits(folder: Path, **options: Any) -> BaseModel:
    return load_base(str(folder), bases_dir=folder, device="cpu", dtype="bfloat16", **options)


def test_32_bits_are_copied_in_16(tiny_base: BaseModel) -> None:
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.weights) == ("float16", "float16")
    assert found.is_invariant
    assert found.kernel.gigabytes_per_second is not None
    assert found.kernel.gigabytes_per_second > 0
    assert "steps: compiled, float16 weights at" in found.note
    assert "the same bits in every batch" in found.note


def test_where_memory_is_short_nothing_is_copied(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "free_bytes", lambda device: 100_000)
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.weights) == ("as_loaded", "float32")
    assert "a copy in float16 would take" in found.kernel.reason


def test_16_bits_are_read_as_they_are(tiny_base_folder: Path) -> None:
    found = chosen(in_16_bits(tiny_base_folder))
    assert (found.kernel.name, found.kernel.weights) == ("as_loaded", "bfloat16")
    assert found.is_invariant


def test_8_bits_are_read_as_they_are_too(tiny_base_folder: Path) -> None:
    found = chosen(in_16_bits(tiny_base_folder, use_8bit=True))
    assert (found.kernel.name, found.kernel.weights) == ("as_loaded", "int8 and bfloat16")


@pytest.mark.parametrize("name", ["as_loaded", "float16", "int8", "modules"])
def test_what_is_asked_for_is_chosen(tiny_base: BaseModel, name: KernelSetting) -> None:
    found = chosen(tiny_base, name).kernel
    assert (found.name, found.reason) == (name, "set by serving.kernel")
    assert (found.decoder is None) == (name == "modules")


def of_another_kind(base: BaseModel) -> BaseModel:
    base.model.model.layers[1].input_layernorm = nn.LayerNorm(64)
    return base


def test_another_architecture_goes_through_modules_and_says_why(own_base: BaseModel) -> None:
    found = chosen(of_another_kind(own_base))
    assert found.kernel.name == "modules"
    assert "LayerNorm is no norm that a step computes" in found.note


def test_compiled_steps_that_are_asked_for_and_cannot_be_are_refused(own_base: BaseModel) -> None:
    with pytest.raises(BaseModelError, match=r"serving.kernel is 'int8'.*LayerNorm is no norm.*use 'auto'"):
        chosen(of_another_kind(own_base), "int8")


class Wrong(Decoder):
    """Of a family that turned out to compute something else."""

    def step(self, *args: Any) -> torch.Tensor:
        return super().step(*args) * 1.05 + 0.1


def test_compiled_steps_that_come_to_something_else_are_not_used(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapter_service.decoding.decoder.Decoder", Wrong)
    assert chosen(tiny_base).kernel.name == "modules"
    with pytest.raises(BaseModelError, match="do not come to what the base comes to"):
        chosen(tiny_base, "as_loaded")


def test_compiled_steps_that_are_slower_are_not_used(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a processor has no instructions for half-precision numbers."""
    seconds = iter([2.0, 1.0])
    monkeypatch.setattr(probe, "_step_seconds", lambda batch: next(seconds))
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.gigabytes_per_second) == ("modules", None)
    assert "slower here" in found.note


def test_without_a_compiler_there_are_modules(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoder(base: BaseModel, packing: str) -> Decoder:
        raise ImportError("numba needs another numpy")

    monkeypatch.setattr(kernels, "_decoder", decoder)
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.reason) == ("modules", "numba needs another numpy")


def test_a_base_that_answers_one_by_one_has_no_compiled_steps(tiny_base: BaseModel) -> None:
    alone = replace(tiny_base, packs_rows=False)
    assert chosen(alone).kernel.name == "modules"
    with pytest.raises(BaseModelError, match=r"serving.kernel is 'float16'.*answers one row at a time; use 'auto'"):
        chosen(alone, "float16")


def test_more_rows_than_there_were_places_for(tiny_base: BaseModel) -> None:
    """The cache is made anew while rows grow in it: steps go on where they are now."""
    from adapter_service.engine.sequence import Sequence

    prompt, tokens = [2 + (31 * place) % 250 for place in range(70)], 12
    wanted = greedy(mixed(tiny_base), prompt, tokens)
    batch = mixed(tiny_base)
    with torch.inference_mode():
        found: dict[Sequence, list[torch.Tensor]] = {}
        for step in range(tokens - 1 + 5):
            if step < 6:
                sequence = Sequence(prompt, len(prompt) + tokens)
                batch.add(sequence)
                logits = None
                while logits is None:
                    logits = batch.read(sequence)
                sequence.next_token = int(logits.argmax())
                found[sequence] = [logits]
                batch.join(sequence)
            for sequence, row in batch.step():
                found[sequence].append(row)
                sequence.next_token = int(row.argmax())
                if len(found[sequence]) == tokens:
                    batch.remove(sequence)
    for rows in found.values():
        assert torch.equal(torch.stack(rows), wanted[: len(rows)])
