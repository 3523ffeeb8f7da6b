"""Steps that are recorded and replayed: on tapes, which refuse what CUDA graphs are known to refuse."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from adapter_service.base_models.attention import can_pack
from adapter_service.base_models.attention import install as install_attention
from adapter_service.base_models.pauses import apart, pausing
from adapter_service.engine import probe, recording
from adapter_service.engine.batch import MixedBatch, read_whole
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import Chosen, choose_batch
from adapter_service.engine.sequence import Sequence
from adapter_service.engine.steps import ModuleSteps
from adapter_service.errors import BaseModelError
from adapter_service.lora.adapter import LoraConfig
from adapter_service.lora.rows import AdapterRows
from tests.decoding.random_bases import FAMILIES, random_model
from tests.engine.resident import KINDS, resident
from tests.engine.serial import greedy, mixed

if TYPE_CHECKING:
    from adapter_service.engine.kv_cache import Buffer
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel
    from adapter_service.settings import KernelSetting
    from tests.engine.tape import Tapes

PROMPT = [2 + (31 * place) % 250 for place in range(70)]


def chosen(base: BaseModel, kernel: KernelSetting = "auto") -> Chosen:
    return choose_batch(base, "plain", rows=3, prefixes=PrefixCache(CHUNK_TOKENS, 0), kernel=kernel)


def begun(
    batch: MixedBatch, tokens: int = 40, adapter: ResidentAdapter | None = None, prompt: list[int] = PROMPT
) -> Sequence:
    sequence = Sequence(prompt, len(prompt) + tokens, adapter)
    sequence.next_token = int(read_whole(batch, sequence).argmax())
    batch.join(sequence)
    return sequence


def test_a_step_of_a_shape_that_comes_again_is_recorded_once(tiny_base: BaseModel, tapes: Tapes) -> None:
    wanted = greedy(mixed(tiny_base, kernel="modules"), PROMPT, 80)
    torch.testing.assert_close(greedy(mixed(tiny_base, kernel="graphs"), PROMPT, 80), wanted)
    # Of 79 steps the first one that attends to 128 positions is made as ever, and the first that attends to 256.
    assert (tapes.recorded, tapes.replayed) == (2, 77)


def test_a_base_that_can_be_recorded_is(tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_CLEARLY_SLOWER", torch.inf)  # tapes are not made for speed
    found = chosen(tiny_base)
    assert (found.kernel.name, found.kernel.weights) == ("graphs", "the base's own")
    assert "steps: transformers' modules as CUDA graphs (a step is launched as a whole)" in found.note
    assert tapes.replayed > tapes.recorded > 0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_recorded(tiny_base: BaseModel, tapes: Tapes, family: str) -> None:
    """What is wrong in a replay is found at the start: windows and all are compared with the model's own way."""
    model: Any = random_model(family)
    install_attention(model)
    base = replace(tiny_base, model=model, packs_rows=can_pack(model))
    assert chosen(base, "graphs").kernel.name == "graphs"
    assert tapes.replayed > tapes.recorded > 0


def test_a_processor_records_nothing(tiny_base: BaseModel) -> None:
    with pytest.raises(BaseModelError, match=r"serving.kernel is 'graphs'.*they are CUDA's, and the base is on cpu"):
        chosen(tiny_base, "graphs")


# What waits, by the operation that is refused.
WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "aten.item": lambda x: float(x.sum()),
    "aten.is_nonzero": lambda x: bool(x.sum()),
    "aten.equal": lambda x: torch.equal(x, x),
    "aten.index": lambda x: x[x > 0],
    "aten.index_put_": lambda x: x.clone().index_put_((x > 0,), x.new_zeros(())),
    "aten.masked_select": lambda x: x.masked_select(x > 0),
    "aten._unique2": torch.unique,
    "aten.nonzero": lambda x: x.nonzero(),
    "aten.lift_fresh": lambda x: torch.tensor([1.0, 2.0], device=x.device),
}


def waits_for_the_device(base: BaseModel, monkeypatch: pytest.MonkeyPatch, wait: str = "aten.item") -> None:
    inner: Callable[[torch.Tensor], torch.Tensor] = base.model.model.norm.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        WAITS[wait](x)
        return inner(x)

    monkeypatch.setattr(base.model.model.norm, "forward", forward)


@pytest.mark.parametrize("wait", WAITS)
def test_a_base_that_cannot_be_recorded_is_served_as_ever(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    waits_for_the_device(tiny_base, monkeypatch, wait)
    found = chosen(tiny_base).kernel
    assert (found.name, tapes.replayed) == ("modules", 0)
    assert f"graphs: a step cannot be recorded: {wait}." in found.reason


def test_a_step_that_can_no_longer_be_recorded_is_made_as_ever(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_CLEARLY_SLOWER", torch.inf)
    found, wanted = chosen(tiny_base), greedy(mixed(tiny_base, kernel="modules"), PROMPT, 8)
    recorded = tapes.recorded
    waits_for_the_device(tiny_base, monkeypatch)
    for batch in (found.batch, found.new_batch(1)):  # all of the base's
        torch.testing.assert_close(greedy(batch, PROMPT, 8), wanted)
    assert tapes.recorded == recorded
    assert found.kernel.reason_now.startswith("a step is launched as a whole; no more are recorded, for a step")
    assert "aten.item" in found.kernel.words


def test_rows_of_adapters_that_cannot_be_recorded_are_found_at_the_start(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = AdapterRows.add

    def waiting(rows: AdapterRows, path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if any(row.adapter is not None for row in rows.order):
            y.sum().item()
        return add(rows, path, x, y)

    monkeypatch.setattr(AdapterRows, "add", waiting)
    assert chosen(tiny_base).kernel.name == "modules"
    assert tapes.recordings.fault is not None


def test_where_memory_runs_out_for_a_recording_steps_go_on_without(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_STEPS_WITHOUT", 3)
    wanted = greedy(mixed(tiny_base, kernel="modules"), PROMPT, 12)
    inner, left = tiny_base.model.model.layers[1].forward, 1

    def short(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if tapes.is_recording and left:
            left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(*args, **kwargs)

    monkeypatch.setattr(tiny_base.model.model.layers[1], "forward", short)
    batch = mixed(tiny_base, kernel="graphs")
    torch.testing.assert_close(greedy(batch, PROMPT, 12), wanted)
    assert left == 0
    # Of 11 steps the first is made as ever, the second after its recording has failed, three without, and one anew.
    assert (tapes.recordings.fault, tapes.recorded, tapes.replayed) == (None, 1, 5)
    assert tapes.recorders == 2


def test_without_memory_for_a_step_at_all_it_can_be_made_again(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = mixed(tiny_base, kernel="graphs")
    with torch.inference_mode():
        sequence = begun(batch)
        for _ in range(3):
            batch.step()
        seen, replayed = sequence.seen, tapes.replayed
        batch.free_memory()
        for _ in range(3):
            batch.step()
    assert (sequence.seen, tapes.recorded, tapes.replayed, tapes.recorders) == (seen + 3, 2, replayed + 2, 2)


def test_a_replay_pauses_before_it_and_recording_does_not(tiny_base: BaseModel, tapes: Tapes) -> None:
    """What is answered in the pause is replayed, too, and neither sees nor changes what is going on."""
    batch, other, pauses = mixed(tiny_base, kernel="graphs"), mixed(tiny_base, kernel="graphs"), 0
    wanted = greedy(mixed(tiny_base, kernel="graphs"), PROMPT, 6)

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        found = apart(lambda: greedy(other, PROMPT, 6), threads=torch.get_num_threads())
        torch.testing.assert_close(found, wanted)

    logits = []
    with torch.inference_mode():
        sequence = begun(batch)
        batch.step()
        with pausing(pause):
            for _ in range(3):
                sequence.seen -= 1  # the same token once more
                logits += [row for _, row in batch.step()]
    assert pauses == 3
    for row in logits:
        torch.testing.assert_close(row, wanted[1])


class Twins:
    """A batch that is recorded and one that is not, to which the same is done: all steps come to the same."""

    def __init__(self, base: BaseModel) -> None:
        self._batches = [mixed(base, kernel=kernel) for kernel in ("graphs", "modules")]
        self._begun = 0

    def begin(self, adapter: ResidentAdapter | None = None, scale: float = 1.0, *, room: int = 200) -> list[Sequence]:
        """With a prompt of its own read, not joined."""
        self._begun += 1
        twins = [Sequence(PROMPT[: 30 + self._begun], room, adapter, scale) for _ in self._batches]
        for batch, sequence in zip(self._batches, twins, strict=True):
            sequence.next_token = int(read_whole(batch, sequence).argmax())
        return twins

    def join(self, *rows: list[Sequence]) -> None:
        self._each(MixedBatch.join, rows)

    def leave(self, *rows: list[Sequence]) -> None:
        self._each(MixedBatch.leave, rows)

    def end(self, *rows: list[Sequence]) -> None:
        self._each(MixedBatch.remove, rows)

    def _each(self, does: Callable[[MixedBatch, Sequence], None], rows: Iterable[list[Sequence]]) -> None:
        for row in rows:
            for batch, sequence in zip(self._batches, row, strict=True):
                does(batch, sequence)

    def step(self, count: int = 4) -> None:
        for _ in range(count):
            recorded, plain = (batch.step() for batch in self._batches)
            for (ours, found), (theirs, wanted) in zip(recorded, plain, strict=True):
                torch.testing.assert_close(found, wanted)
                ours.next_token = theirs.next_token = int(wanted.argmax())


@pytest.fixture
def twins(tiny_base: BaseModel, tapes: Tapes) -> Iterator[Twins]:
    twins = Twins(tiny_base)
    with torch.inference_mode():
        yield twins
    assert tapes.replayed > tapes.recorded > 0


def test_each_adapter_has_a_recording_of_its_own(twins: Twins, tiny_base: BaseModel) -> None:
    adapters = [resident(tiny_base, KINDS[0], seed) for seed in (1, 2)]
    for adapter, scale in ((adapters[0], 1.0), (adapters[1], 1.0), (adapters[1], 0.5), (None, 1.0)) * 2:
        twins.join(row := twins.begin(adapter, scale))
        twins.step()
        twins.end(row)


def test_an_adapter_of_more_layers_beside_others(twins: Twins, tiny_base: BaseModel) -> None:
    """Some layers have no room for a row's adapter before one comes that changes them."""
    attention = LoraConfig(r=8, alpha=8, target_modules=("q_proj",))
    few, other, all_layers = (
        resident(tiny_base, config, seed) for seed, config in enumerate((attention, attention, KINDS[0]))
    )
    twins.join(twins.begin(few))
    for adapter in (other, all_layers):
        twins.join(row := twins.begin(adapter))
        twins.step()
        twins.end(row)


def test_a_cache_that_grows_while_a_row_goes_on(twins: Twins) -> None:
    twins.join(twins.begin())
    twins.step()
    second = twins.begin()
    twins.step()
    twins.join(second)
    twins.step()


def test_a_row_in_one_place_after_the_other(twins: Twins) -> None:
    rows = [twins.begin() for _ in range(4)]
    for row in (*rows, *reversed(rows)):
        twins.join(row)
        twins.step(3)
        twins.leave(row)


def test_rows_of_several_capacities_in_another_order(twins: Twins) -> None:
    short, long, other = twins.begin(), twins.begin(room=400), twins.begin()
    for order in ((short, long, other), (long, short, other), (other, short, long)):
        twins.join(*order)
        twins.step()
        twins.leave(*order)


def test_recordings_keep_neither_adapters_nor_caches(tiny_base: BaseModel, tapes: Tapes) -> None:
    batch, adapter = mixed(tiny_base, kernel="graphs"), resident(tiny_base, KINDS[0], 1)
    with torch.inference_mode():
        sequence = begun(batch, 400, adapter)
        for _ in range(3):
            batch.step()
        buffer: weakref.ref[Buffer] = weakref.ref(batch._cache.buffer(512))
        batch.remove(sequence)
    known = weakref.ref(adapter)
    del adapter, sequence
    gc.collect()
    assert (tapes.recorded, tapes.replayed) == (1, 2)
    assert (buffer(), known()) == (None, None)


def test_those_that_were_replayed_last_are_kept(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_MOST", 2)
    batch = mixed(tiny_base, kernel="graphs")
    with torch.inference_mode():
        one, two, three = (begun(batch) for _ in range(3))
        for sequence in (three, two, one):
            batch.leave(sequence)

        def recorded_by(*sequences: Sequence, steps: int = 1) -> int:
            before = tapes.recorded
            for sequence in sequences:
                batch.join(sequence)
            for _ in range(steps):
                batch.step()
            for sequence in sequences:
                batch.leave(sequence)
            return tapes.recorded - before

        assert recorded_by(one, steps=2) == 1
        assert recorded_by(one, two, steps=2) == 1
        assert recorded_by(one) == 0
        assert recorded_by(one, two, three, steps=2) == 1  # that of two rows goes: one was replayed after it
        assert recorded_by(one) == 0
        assert recorded_by(one, two, steps=1) == 0  # it has to come again once more
        assert recorded_by(one, two, steps=1) == 1
    assert tapes.recorders == 1
    assert isinstance(batch._steps, ModuleSteps)
    assert batch._steps._recorded is not None
    assert len(batch._steps._recorded._by_shape) == 2


def test_what_has_lost_its_memory_goes_first(
    tiny_base: BaseModel, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_MOST", 2)
    batch = mixed(tiny_base, kernel="graphs")
    with torch.inference_mode():
        short = begun(batch)
        for _ in range(3):
            batch.step()
        batch.leave(short)
        for _ in range(3):  # a place for so many tokens goes with its last sequence, and comes anew
            long = begun(batch, 400)
            for _ in range(3):
                batch.step()
            batch.remove(long)
        recorded, replayed = tapes.recorded, tapes.replayed
        batch.join(short)
        batch.step()
    assert (recorded, tapes.recorded, tapes.replayed) == (4, 4, replayed + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are CUDA's")
class TestOnCuda:
    """Where there is a device: what tapes stand for."""

    def test_a_graph_makes_anew_what_was_recorded(self) -> None:
        device = torch.device("cuda")
        x = torch.arange(4.0, device=device)
        output, replay = recording.CudaRecorder(device).record(lambda: x * 2 + 1)
        for numbers in ([0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0]):
            x.copy_(torch.tensor(numbers))
            replay()
            assert output.tolist() == [2 * number + 1 for number in numbers]

    def test_what_cannot_be_recorded_says_why_and_others_go_on(self) -> None:
        device = torch.device("cuda")
        x, recorder = torch.arange(4.0, device=device), recording.CudaRecorder(device)

        def fails() -> torch.Tensor:
            raise RuntimeError("the cause")

        with pytest.raises(RuntimeError, match="the cause"):
            recorder.record(fails)
        with pytest.raises(RuntimeError):
            recorder.record(lambda: x * float(x.sum()))
        torch.cuda.empty_cache()  # torch before 2.13 took the failed one for being under way
        output, replay = recording.CudaRecorder(device).record(lambda: x + 1)
        replay()
        assert output.tolist() == [1.0, 2.0, 3.0, 4.0]

    def test_steps_come_to_what_the_modules_come_to(self, tiny_base: BaseModel) -> None:
        model: Any = tiny_base.model.to("cuda")
        base = replace(tiny_base, model=model)
        try:
            kernel = chosen(base, "graphs").kernel
            assert (kernel.name, kernel.reason_now) == ("graphs", "set by serving.kernel")
            with torch.inference_mode():
                twins = Twins(base)
                for adapter in (resident(base, KINDS[0], 1), None, resident(base, KINDS[0], 2)):
                    twins.join(twins.begin(adapter))
                    twins.step()
        finally:
            model.to("cpu")
