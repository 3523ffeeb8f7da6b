"""Where long passes through the base can be paused, and how what is done in a pause keeps apart from them.

    with pausing(pause):
        model(...)                     # `pause` is called at every low-rank layer, forward and backward,
        completion_loss(...)           # and before each block of a loss
    pause = lambda: apart(answer, threads=...)

A pause lies in the middle of whatever runs: inside a layer that is run again for its backward pass, in a hook that the
backward pass calls, in inference mode while an adapter is judged. What is answered there goes through the same modules,
and shall neither see nor change any of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import Context, ContextVar
from typing import TypeVar

import torch

from adapter_service.base_models.threads import on_threads

T = TypeVar("T")
Pause = Callable[[], None]

_DEVICES = ("cpu", "cuda")

_pause: ContextVar[Pause | None] = ContextVar("pause", default=None)


@contextmanager
def pausing(pause: Pause | None) -> Iterator[None]:
    """Call `pause`, if any, at every layer of the passes inside, and between the blocks of a loss.

    What it raises ends them.

    A backward pass calls it on its own thread: set `torch.autograd.set_multithreading_enabled(False)` around it, and
    that is the caller's on every device.
    """
    token = _pause.set(pause)
    try:
        yield
    finally:
        _pause.reset(token)


def pause_in_use() -> Pause | None:
    """For whoever can pause in several places at once, or in none."""
    return _pause.get()


def pause_here() -> None:
    if (pause := _pause.get()) is not None:
        pause()


def pausing_at_gradient(y: torch.Tensor) -> torch.Tensor:
    """`y`, for which there is a pause when the backward pass comes to it.

    A hook and what torch makes for it cost 10 µs. Where the backward pass is ours, it has a `pause_here`, which costs
    none of that.
    """
    if _pause.get() is not None and y.requires_grad:
        y.register_hook(lambda _: pause_here())  # type: ignore[no-untyped-call]
    return y


def apart(work: Callable[[], T], *, threads: int) -> T:
    """Run `work` in the middle of a pass as it would run outside of one, and leave the pass as it was.

    Inside, every context variable has its default: no adapter, no packed rows, no outputs to take from a first run,
    no pause. Neither gradients, inference mode nor autocast are on, so nothing of it is kept for a backward pass, and
    what is made in it, an adapter that is read from disk, can be trained later. Products are made on `threads`, the
    base's own, whatever part of them the pass uses just now. A context that `work` leaves open is gone after it.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(on_threads(threads))
        return Context().run(work)
