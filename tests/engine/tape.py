"""Recordings without CUDA: operations on a tape, which make their numbers anew where they were, as graphs do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapter_service.engine.recording import Recordings

aten = torch.ops.aten

# What a stream that is recorded refuses: to wait for the device, and to copy from memory that may be gone by then.
_REFUSED = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.lift_fresh.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
# These count what a mask has chosen, where they are given one.
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Tapes:
    """All that were recorded, by recorders that it makes.

    A tape has addresses, and numbers from outside, as they were: what a step bakes in shows when it is replayed.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self.recorders = 0
        self.is_recording = False
        self.recordings = Recordings(self.new_recorder)

    def new_recordings(self) -> Recordings:
        """Those of another base, which are `recordings` from then on."""
        self.recordings = Recordings(self.new_recorder)
        return self.recordings

    def new_recorder(self) -> Tapes:
        self.recorders += 1
        return self

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        tape, self.is_recording = _Tape(), True
        try:
            with patch.object(torch.cuda, "is_current_stream_capturing", lambda: True), tape:
                output = run()
        finally:
            self.is_recording = False
            tape.spoil()
        self.recorded += 1
        return output, lambda: self._replay(tape)

    def _replay(self, tape: _Tape) -> None:
        self.replayed += 1
        tape.replay()


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _REFUSED or (func in _INDEXED and any(_is_mask(index) for index in args[1])):
            raise RuntimeError(f"{func} is not permitted while operations are recorded")
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(made)))
        return made

    def spoil(self) -> None:
        """Numbers that are not computed before the first replay."""
        known = set[int]()  # memory that was there before, and what is spoilt
        for _, args, kwargs, made in self.calls:
            known |= {_memory(tensor) for tensor in _tensors((args, kwargs))}
            for tensor in _tensors(made):
                if _memory(tensor) not in known:
                    tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
                    known.add(_memory(tensor))

    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            for old, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype in {torch.bool, torch.uint8}


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
