"""Steps that are recorded once and replayed: on CUDA, launching a step's operations takes longer than they do.

    recordings  how a base's steps are recorded, for all of its batches, and why they no longer are
    recorder    makes a recording of whatever runs: a CUDA graph
    inputs      what a step reads that differs from the one before, in tensors that stay where they are
    shape       what it depends on beside: how many rows, which places and matrices; for each a recording of its own

A recording has addresses, and keeps nothing of what lies there: shapes name that by weak references, so that one whose
memory is gone is never replayed.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol
from weakref import ref

import torch

from adapter_service.base_models.memory_faults import says_no_memory
from adapter_service.base_models.pauses import pause_here, pausing
from adapter_service.engine.cached_attention import StepAttention
from adapter_service.lora.rows import AdapterRows

log = logging.getLogger(__name__)

# A recording takes about as long as some steps: what comes but once is not worth one.
_RECORDED_AT = 2
# Each has some megabytes of its own on the device; those that were replayed last are kept.
_MOST = 32
# Shapes that are remembered: rows that come and go in any order have more than will come again.
_MOST_SEEN = 256
# Steps after which memory may be there again that ran out for a recording: half a minute of a small base's.
_STEPS_WITHOUT = 1000


class Recorder(Protocol):
    """Makes recordings, of which only one is replayed at a time."""

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """Where `run` leaves what it gives, and what makes that anew; before, its numbers are not to be read.

        Raises:
            Exception: what `run` raises, and RuntimeError where it does what cannot be recorded.
        """
        ...


class CudaRecorder:
    """CUDA graphs, in memory that those of one recorder share."""

    def __init__(self, device: torch.device) -> None:
        self._stream = _recording_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """As `torch.cuda.graph`, which waits for the device and gives up its cache, and hides why `run` failed."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._stream):
                graph.capture_begin(self._pool, capture_error_mode="thread_local")  # other threads go on
                try:
                    output = run()
                except BaseException:
                    with suppress(RuntimeError):  # that it failed
                        graph.capture_end()
                    raise
                graph.capture_end()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()  # none of it may be taken for a recording while one is made
            raise
        return output, graph.replay


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recorders: memory of a pool goes from one recording to the next where both were made on one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Recordings:
    """How a base's steps are recorded: what one of its batches cannot, no other tries; what they have, they keep."""

    def __init__(self, new_recorder: Callable[[], Recorder]) -> None:
        self.new_recorder = new_recorder
        self.fault: str | None = None
        """Why one could not be made; none is made after that."""


def recordings_on(device: torch.device) -> Recordings | None:
    """None where a device has nothing that is recorded."""
    return Recordings(partial(CudaRecorder, device)) if device.type == "cuda" else None


@dataclass(frozen=True, eq=False, slots=True)
class StepInputs:
    """What one step reads: tokens and positions (2, rows), what its rows attend to, and their adapters."""

    numbers: torch.Tensor
    attention: StepAttention
    adapters: AdapterRows

    @property
    def shape(self) -> Hashable:
        return self.numbers.shape, self.attention.shape, self.adapters.shape

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that tells one from another of the same shape."""
        return [self.numbers, *self.attention.tensors]


@dataclass(frozen=True, eq=False, slots=True)
class _Recorded:
    inputs: list[torch.Tensor]
    logits: torch.Tensor
    replay: Callable[[], None]


class RecordedSteps:
    """Steps by recordings, of those shapes that have come before."""

    def __init__(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._recorder = recordings.new_recorder()
        self._by_shape: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()
        self._steps_without = 0

    def logits(self, inputs: StepInputs, run: Callable[[StepInputs], torch.Tensor]) -> torch.Tensor:
        """What `run` gives for `inputs`, which it has not run yet."""
        if self._steps_without:
            self._steps_without -= 1
            return run(inputs)
        if not self._by_shape and self._recordings.fault is not None:
            return run(inputs)
        shape = inputs.shape
        recorded = self._by_shape.get(shape) or self._new(inputs, shape, run)
        if recorded is None:
            return run(inputs)
        self._by_shape.move_to_end(shape)
        pause_here()
        torch._foreach_copy_(recorded.inputs, inputs.tensors)
        recorded.replay()
        return recorded.logits.clone()  # the next replay writes where they are

    def free_memory(self) -> None:
        """Give up the recordings."""
        self._by_shape.clear()
        self._seen.clear()
        self._recorder = self._recordings.new_recorder()  # the memory that the old one's shared is gone

    def _new(self, inputs: StepInputs, shape: Hashable, run: Callable[[StepInputs], torch.Tensor]) -> _Recorded | None:
        """None where it is not recorded."""
        if self._recordings.fault is not None or not self._comes_again(shape):
            return None
        try:
            with pausing(None):
                recorded = _Recorded(inputs.tensors, *self._recorder.record(lambda: run(inputs)))
        except (RuntimeError, MemoryError) as error:
            self._say(error)
        else:
            self._keep(shape, recorded)
            return recorded
        inputs.attention.forget()
        self.free_memory()
        return None

    def _say(self, error: Exception) -> None:
        """Why no step is recorded from now on, or for a while."""
        if says_no_memory(error):
            self._steps_without = _STEPS_WITHOUT
            words = "memory ran out for the recording of a step; %d steps are made without"
            log.warning(words, _STEPS_WITHOUT, extra={"action": "recording_short_of_memory"})
        else:
            log.warning("a step cannot be recorded", exc_info=error, extra={"action": "recording_failed"})
            first_line, *_ = str(error).splitlines() or [type(error).__name__]
            self._recordings.fault = f"a step cannot be recorded: {first_line}"

    def _keep(self, shape: Hashable, recorded: _Recorded) -> None:
        for known in [known for known in self._by_shape if _names_what_is_gone(known)]:
            del self._by_shape[known], self._seen[known]
        self._by_shape[shape] = recorded
        if len(self._by_shape) > _MOST:
            evicted, _ = self._by_shape.popitem(last=False)
            del self._seen[evicted]

    def _comes_again(self, shape: Hashable) -> bool:
        self._seen[shape] += 1
        if len(self._seen) > _MOST_SEEN:
            self._seen.clear()
        return self._seen[shape] >= _RECORDED_AT


def _names_what_is_gone(shape: object) -> bool:
    if isinstance(shape, tuple):
        return any(_names_what_is_gone(part) for part in shape)
    return isinstance(shape, ref) and shape() is None
