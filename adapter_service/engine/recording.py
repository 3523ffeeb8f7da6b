"""Steps that are recorded once and replayed: on CUDA, launching a step's operations takes longer than they do.

    recorder    makes a recording of whatever runs: a CUDA graph
    told        what a step reads that differs from the one before, in tensors that stay where they are
    shape       what it depends on beside: how many rows, which places and matrices; for each a recording of its own

A recording has addresses, and keeps nothing of what lies there: shapes name that by weak references, so that one whose
memory is gone is never replayed.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch

from adapter_service.base_models.memory_faults import says_no_memory
from adapter_service.base_models.pauses import pause_here, pausing
from adapter_service.engine.cached_attention import StepAttention

log = logging.getLogger(__name__)

# A recording takes about as long as some steps: what comes but once is not worth one.
_RECORDED_AT = 2
# Each has some megabytes of its own on the device; those that were replayed last are kept.
_MOST = 32
_MOST_SEEN = 256


class Recorder(Protocol):
    """Makes recordings, of which only one is replayed at a time."""

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """Where `run` leaves what it gives, and what makes that anew; before, its numbers are not to be read.

        Raises:
            RuntimeError: `run` does what cannot be recorded.
        """
        ...


class CudaRecorder:
    """CUDA graphs, in memory that those of one recorder share."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # Around it the stream of whoever calls, for `graph` leaves its own in use if it fails. Other threads go on.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            output = run()
        return output, graph.replay


def recorders_of(device: torch.device) -> Callable[[], Recorder] | None:
    """What makes recorders for a device; None where it has none."""
    return CudaRecorder if device.type == "cuda" else None


@dataclass(frozen=True, eq=False, slots=True)
class Told:
    """What one step reads: tokens and positions (2, rows), and what its rows attend to."""

    inputs: torch.Tensor
    attention: StepAttention
    adapters: Hashable
    """The shape of its rows' adapters."""

    @property
    def shape(self) -> Hashable:
        return self.inputs.shape, self.attention.shape, self.adapters

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that tells one from another of the same shape."""
        return [self.inputs, *self.attention.tensors]


@dataclass(frozen=True, eq=False, slots=True)
class _Recorded:
    told: list[torch.Tensor]
    logits: torch.Tensor
    replay: Callable[[], None]


class RecordedSteps:
    """Steps by recordings, of those shapes that have come before."""

    def __init__(self, new_recorder: Callable[[], Recorder]) -> None:
        self.fault: str | None = None
        """Why one could not be made; none is made after that."""
        self._new_recorder = new_recorder
        self._recorder = new_recorder()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()

    def logits(self, told: Told, run: Callable[[Told], torch.Tensor]) -> torch.Tensor:
        """What `run` gives for `told`, which it has not run yet."""
        shape = told.shape
        recorded = self._recorded.get(shape) or self._new(told, shape, run)
        if recorded is None:
            return run(told)
        self._recorded.move_to_end(shape)
        pause_here()
        torch._foreach_copy_(recorded.told, told.tensors)
        recorded.replay()
        return recorded.logits.clone()  # the next replay writes where they are

    def forget(self) -> None:
        """Give up the recordings."""
        self._recorded.clear()
        self._seen.clear()
        self._recorder = self._new_recorder()  # the memory that the old one's shared is gone

    def _new(self, told: Told, shape: Hashable, run: Callable[[Told], torch.Tensor]) -> _Recorded | None:
        """None where it is not recorded."""
        if self.fault is not None or not self._comes_again(shape):
            return None
        try:
            with pausing(None):
                recorded = _Recorded(told.tensors, *self._recorder.record(lambda: run(told)))
        except RuntimeError as error:
            if says_no_memory(error):
                raise
            log.warning("a step cannot be recorded", exc_info=True, extra={"action": "recording_failed"})
            self.fault = f"a step cannot be recorded: {error}"
            told.attention.forget()
            return None
        self._recorded[shape] = recorded
        if len(self._recorded) > _MOST:
            self._recorded.popitem(last=False)
        return recorded

    def _comes_again(self, shape: Hashable) -> bool:
        self._seen[shape] += 1
        if len(self._seen) > _MOST_SEEN:
            self._seen.clear()
        return self._seen[shape] >= _RECORDED_AT
