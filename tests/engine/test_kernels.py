"""How steps are made: what is chosen, and what happens where that cannot be."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from adapter_service.base_models.pauses import apart, pausing
from adapter_service.decoding import step
from adapter_service.decoding.decoder import Decoder
from adapter_service.engine import kernels, probe
from adapter_service.engine.batch import read_whole
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import Chosen, choose_batch
from adapter_service.engine.sequence import Sequence
from adapter_service.errors import BaseModelError
from adapter_service.model_utils import BaseModel, load_base
from tests.engine.resident import KINDS, resident
from tests.engine.serial import greedy, mixed

if TYPE_CHECKING:
    from pathlib import Path

    from adapter_service.settings import KernelName, KernelSetting


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
    reason, _, of_prompts = found.reason.partition("; ")
    assert (found.name, reason) == (name, "set by serving.kernel")
    assert of_prompts.startswith("prompts ") == (name != "modules")
    assert (found.decoder is None) == (name == "modules")


def of_another_kind(base: BaseModel) -> BaseModel:
    base.model.model.layers[1].input_layernorm = nn.LayerNorm(64)
    return base


def test_another_architecture_goes_through_modules_and_says_why(own_base: BaseModel) -> None:
    found = chosen(of_another_kind(own_base))
    assert found.kernel.name == "modules"
    assert "LayerNorm is no norm that a step computes" in found.note


def test_compiled_steps_that_are_asked_for_and_cannot_be_are_refused(own_base: BaseModel) -> None:
    with pytest.raises(BaseModelError, match=r"serving.kernel is 'int8'.*LayerNorm is no norm"):
        chosen(of_another_kind(own_base), "int8")


class Off(Decoder):
    """Of a family that turned out to compute something else."""

    def step(self, *args: Any) -> torch.Tensor:
        return super().step(*args) * 1.05 + 0.1


class NoNumbers(Decoder):
    """As weights that float16 has no room for come to."""

    def step(self, *args: Any) -> torch.Tensor:
        return super().step(*args) * float("nan")


@pytest.mark.parametrize(("wrong", "words"), [(Off, "of their size off"), (NoNumbers, "inf of their size off")])
def test_compiled_steps_that_come_to_something_else_are_not_used(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch, wrong: type[Decoder], words: str
) -> None:
    monkeypatch.setattr("adapter_service.decoding.decoder.Decoder", wrong)
    found = chosen(tiny_base).kernel
    assert found.name == "modules"
    assert "float16: logits are" in found.reason
    assert "as_loaded: logits are" in found.reason
    assert words in found.reason
    with pytest.raises(BaseModelError, match=f"serving.kernel is 'as_loaded'.*as_loaded: logits are.*{words}"):
        chosen(tiny_base, "as_loaded")


class OffInFloat16(Decoder):
    def step(self, *args: Any) -> torch.Tensor:
        return super().step(*args) * (1.0 if self.weight_kinds == ["float32"] else float("inf"))


def test_where_a_copy_does_not_come_to_the_same_the_weights_themselves_are_read(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapter_service.decoding.decoder.Decoder", OffInFloat16)
    assert (chosen(tiny_base).kernel.name, chosen(tiny_base).kernel.weights) == ("as_loaded", "float32")


def test_compiled_steps_that_are_clearly_slower_are_not_used(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are many cores, or a processor without instructions for half-precision numbers."""
    seconds = iter([0.020, 0.030, 0.010, 0.040])
    monkeypatch.setattr(probe, "_step_seconds", lambda batch, rows: next(seconds))
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.gigabytes_per_second) == ("modules", None)
    assert "slower here: 1 row 20.0 ms against 10.0, 3 rows 30.0 ms against 40.0" in found.note


def test_compiled_steps_that_take_as_long_are_used(tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.011, 0.011, 0.010, 0.010])
    monkeypatch.setattr(probe, "_step_seconds", lambda batch, rows: next(seconds))
    assert chosen(tiny_base).kernel.name == "float16"


@pytest.fixture(params=[True, False], ids=["in pairs", "not in pairs"])
def in_pairs(request: pytest.FixtureRequest) -> bool:
    """On a processor that multiplies pairs, and on another."""
    is_so: bool = request.param
    return is_so


@pytest.fixture
def base_of_pairs(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_pairs: bool
) -> BaseModel:
    """In bfloat16, with heads as long as a block."""
    monkeypatch.setattr("adapter_service.decoding.decoder.Decoder", partial(Decoder, in_pairs=in_pairs))
    folder = shutil.copytree(tiny_base_folder, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return in_16_bits(folder)


@pytest.mark.parametrize(
    ("seconds", "is_compiled"), [([0.1, 0.2], True), ([0.105, 0.1], True), ([0.12, 0.1], False), ([0.2, 0.1], False)]
)
def test_prompts_are_compiled_unless_that_is_slower(
    base_of_pairs: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    *,
    is_compiled: bool,
    in_pairs: bool,
) -> None:
    times = iter(seconds)
    monkeypatch.setattr(probe, "_chunk_seconds", lambda batch: next(times))
    found = chosen(base_of_pairs, "as_loaded")
    assert (found.kernel.prompts_by is found.kernel.decoder) == is_compiled
    how = "compiled, too, in pairs of bfloat16" if in_pairs else "compiled, too"
    words = f"{how}: 64" if is_compiled else "by modules, compiled is slower here: 64"
    assert f"set by serving.kernel; prompts {words} tokens {seconds[0] * 1000:.0f} ms against" in found.note


class OffInPrompts(Decoder):
    def read(self, *args: Any) -> torch.Tensor:
        return super().read(*args) * 1.5


def test_where_compiled_prompts_come_to_something_else_steps_alone_are_compiled(
    base_of_pairs: BaseModel, monkeypatch: pytest.MonkeyPatch, *, in_pairs: bool
) -> None:
    monkeypatch.setattr("adapter_service.decoding.decoder.Decoder", partial(OffInPrompts, in_pairs=in_pairs))
    found = chosen(base_of_pairs, "as_loaded").kernel
    assert found.decoder is not None
    assert found.prompts_by is None
    assert "prompts by modules, for logits are" in found.reason


@pytest.mark.parametrize("scores", [None, 2])
def test_a_prompt_that_compiled_code_reads_comes_near_to_what_modules_come_to(
    base_of_pairs: BaseModel, scores: int | None
) -> None:
    """With an adapter, over several chunks and with what is kept of them; steps go on from its keys and values."""
    adapter, prompt = resident(base_of_pairs, KINDS[2], 3, 0.05), [5 + number % 200 for number in range(150)]
    found, trails = {}, {}
    for name in ("modules", "compiled"):
        batch = mixed(base_of_pairs, 2, 2**20, reads_prompts=name == "compiled")
        first = greedy(batch, prompt, 4, adapter, 0.5)
        assert torch.equal(greedy(batch, prompt, 4, adapter, 0.5), first)
        found[name] = first.float()
        sequence = Sequence(prompt, 160, adapter, 0.5, prompt_logprobs=scores)
        with torch.inference_mode():
            read_whole(batch, sequence)
        trails[name] = [token.logprob for token in sequence.prompt_trail]
        assert sequence.cached_tokens == (0 if scores else 2 * CHUNK_TOKENS)
    apart = (found["compiled"] - found["modules"]).norm() / found["modules"].norm()
    assert 0 < float(apart) < 0.05
    assert len(trails["modules"]) == len(trails["compiled"]) == (149 if scores else 0)
    assert trails["compiled"] == pytest.approx(trails["modules"], abs=0.5)


@pytest.mark.parametrize("packing", ["float16", "int8", "as_loaded"])
def test_scores_are_the_bases_own_and_leave_answers_as_they_are(tiny_base: BaseModel, packing: KernelName) -> None:
    prompt = [5 + number % 200 for number in range(150)]
    batch, other = (mixed(tiny_base, 2, 2**20, packing, reads_prompts=True) for _ in range(2))
    wanted = greedy(other, prompt, 4)
    scored = Sequence(prompt, 160, prompt_logprobs=0)
    with torch.inference_mode():
        read_whole(batch, scored)
        own = tiny_base.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert torch.equal(greedy(batch, prompt, 4), wanted)
    told = [token.logprob for token in scored.prompt_trail]
    assert told == pytest.approx(own[range(149), prompt[1:]].tolist(), abs=1e-4)


def test_adapters_are_kept_in_what_is_read_of_them(
    tiny_base: BaseModel, base_of_pairs: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, by_modules = [0.1, 0.2], [0.2, 0.1]
    times, base = iter([*compiled, *by_modules, *compiled, *compiled]), base_of_pairs
    monkeypatch.setattr(probe, "_chunk_seconds", lambda batch: next(times))

    def kept(base: BaseModel, name: KernelSetting) -> torch.dtype:
        return chosen(base, name).kernel.adapter_dtype(base)

    assert kept(base, "as_loaded") is torch.bfloat16
    # Prompts go through modules, which are faster with float32.
    assert kept(base, "as_loaded") is kept(base, "modules") is torch.float32
    assert kept(tiny_base, "as_loaded") is kept(tiny_base, "float16") is torch.float32


@pytest.mark.parametrize("error", [ImportError("numba needs another numpy"), RuntimeError("no memory"), EOFError()])
def test_whatever_the_compiler_fails_with_there_are_modules(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr("adapter_service.decoding.decoder.make_pass", fail)
    found = chosen(tiny_base).kernel
    assert found.name == "modules"
    assert f"steps cannot be compiled: {error}" in found.reason
    with pytest.raises(BaseModelError, match="steps cannot be compiled"):
        chosen(tiny_base, "int8")


def test_a_full_disk_keeps_nothing_for_the_next_start_and_steps_are_compiled(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba has compiled when it finds that it cannot write."""
    whole, calls = step.make_pass, iter([OSError(28, "No space left on device")])

    def failing_once(*args: Any) -> None:
        for error in calls:
            raise error
        whole(*args)

    monkeypatch.setattr("adapter_service.decoding.decoder.make_pass", failing_once)
    assert chosen(tiny_base, "as_loaded").kernel.name == "as_loaded"


def test_a_copy_of_what_is_as_small_already_is_refused(tiny_base_folder: Path) -> None:
    with pytest.raises(BaseModelError, match=r"of its weights \(bfloat16\) there is nothing to copy as float16"):
        chosen(in_16_bits(tiny_base_folder), "float16")


def test_what_was_there_for_a_long_sequence_goes_with_it(tiny_base: BaseModel) -> None:
    batch, prompt = mixed(tiny_base), [2 + (31 * place) % 250 for place in range(70)]
    with torch.inference_mode():
        sequence = Sequence(prompt, 500)
        sequence.next_token = int(read_whole(batch, sequence).argmax())
        batch.join(sequence)
        batch.step()
        keys = weakref.ref(batch._cache.buffer(512).layers[0][0])
        batch.remove(sequence)
    gc.collect()
    assert keys() is None


def test_steps_of_long_work_pause_at_every_layer(tiny_base: BaseModel) -> None:
    """Answers that are given in a pause neither see nor change what is going on."""
    prompt = [2 + (31 * place) % 250 for place in range(70)]
    wanted, batch, pauses = greedy(mixed(tiny_base), prompt, 6), mixed(tiny_base), 0
    other = mixed(tiny_base)

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses % 7 == 0:
            assert torch.equal(apart(lambda: greedy(other, prompt, 6), threads=torch.get_num_threads()), wanted)

    with torch.inference_mode():
        sequence = Sequence(prompt, len(prompt) + 6)
        logits = [read_whole(batch, sequence)]
        batch.join(sequence)
        with pausing(pause):
            while len(logits) < 6:
                sequence.next_token = int(logits[-1].argmax())
                logits += [row for _, row in batch.step()]
    assert torch.equal(torch.stack(logits), wanted)
    assert pauses == 5 * tiny_base.model.config.num_hidden_layers


def test_a_base_that_answers_one_by_one_has_no_compiled_steps(tiny_base: BaseModel) -> None:
    alone = replace(tiny_base, packs_rows=False)
    assert chosen(alone).kernel.name == "modules"
    with pytest.raises(BaseModelError, match=r"serving.kernel is 'float16'.*its rows cannot lie together"):
        chosen(alone, "float16")


def test_more_rows_than_there_were_places_for(tiny_base: BaseModel) -> None:
    """The cache is made anew while rows grow in it: steps go on where they are now."""
    prompt, tokens = [2 + (31 * place) % 250 for place in range(70)], 12
    wanted = greedy(mixed(tiny_base), prompt, tokens)
    batch = mixed(tiny_base)
    with torch.inference_mode():
        found: dict[Sequence, list[torch.Tensor]] = {}
        for step in range(tokens - 1 + 5):
            if step < 6:
                sequence = Sequence(prompt, len(prompt) + tokens)
                logits = read_whole(batch, sequence)
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
