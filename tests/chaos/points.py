"""Where the service can be killed: each point patches one function of it to end its own process there.

The product knows nothing of this. A point strikes when the file `kill-at` in the state folder names it,
once; whoever drives the service writes that file (`arm`). While the file `slowly` is there (`slow_down`),
steps of a job take long enough to be met from outside.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Strike = Callable[[], None]
Patch = Callable[[Strike, Path], None]

_ARMED, _SLOWLY = "kill-at", "slowly"
_MICRO_STEP_SECONDS = 0.05


def arm(state_dir: Path, point: str, *, call: int = 1) -> None:
    """Kill the service when it comes to `point` for the `call`th time from now."""
    write = state_dir / f"{_ARMED}.new"
    write.write_text(json.dumps({"point": point, "call": call}))
    write.replace(state_dir / _ARMED)


@contextmanager
def slow_down(state_dir: Path) -> Iterator[None]:
    """Within it the steps of jobs take long."""
    (state_dir / _SLOWLY).touch()
    try:
        yield
    finally:
        (state_dir / _SLOWLY).unlink()


def patch_all(state_dir: Path) -> None:
    """Within the process that is to serve, before it does."""
    _slow_steps(state_dir)
    for name, patch in POINTS.items():
        patch(_striker(name, state_dir), state_dir)


def _slow_steps(state_dir: Path) -> None:
    from adapter_service.training import loop

    slowly = state_dir / _SLOWLY
    _before(loop, "completion_states", lambda: time.sleep(_MICRO_STEP_SECONDS) if slowly.exists() else None)


def _striker(point: str, state_dir: Path) -> Strike:
    armed = state_dir / _ARMED

    def strike() -> None:
        if not armed.exists():
            return
        wanted = json.loads(armed.read_text())
        if wanted["point"] != point:
            return
        if wanted["call"] > 1:
            armed.write_text(json.dumps({**wanted, "call": wanted["call"] - 1}))
            return
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    return strike


def _after(owner: Any, name: str, strike: Strike, *, when: Callable[[Any], bool] = lambda result: True) -> None:
    real = getattr(owner, name)

    def patched(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        if when(result):
            strike()
        return result

    setattr(owner, name, patched)


def _before(owner: Any, name: str, strike: Strike) -> None:
    real = getattr(owner, name)

    def patched(*args: Any, **options: Any) -> Any:
        strike()
        return real(*args, **options)

    setattr(owner, name, patched)


def _after_accept(strike: Strike, _: Path) -> None:
    """The row is written, and the client never hears of it."""
    from adapter_service.jobs.store import JobStore

    _after(JobStore, "create", strike)


def _after_claim(strike: Strike, _: Path) -> None:
    from adapter_service.jobs.store import JobStore

    _after(JobStore, "claim_next", strike, when=lambda job: job is not None)


def _in_the_stream(strike: Strike, _: Path) -> None:
    """A record was read and counted, and is not yet a sample."""
    from adapter_service.connectors.tally import Tally

    _before(Tally, "accepted", strike)


def _in_a_step(strike: Strike, _: Path) -> None:
    """Between the micro-batches of a step: gradients are there, and the weights are those of the step before."""
    from adapter_service.training import loop

    _before(loop, "completion_states", strike)


def _in_a_checkpoint(strike: Strike, _: Path) -> None:
    """Half of the tensors are written."""
    import safetensors.torch

    real = safetensors.torch.save_file

    def save_file(tensors: Any, path: Any, *args: Any, **options: Any) -> None:
        real(tensors, path, *args, **options)
        if "checkpoint" in str(path):
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            strike()
            Path(path).write_bytes(whole)

    safetensors.torch.save_file = save_file


def _around_the_rename(strike: Strike, state_dir: Path, *, done: bool) -> None:
    """The rename that puts a version's folder into its place."""
    for owner, name in ((Path, "rename"), (Path, "replace"), (os, "rename"), (os, "replace")):
        _patch_move(owner, name, strike, state_dir / "adapters", done=done)


def _patch_move(owner: Any, name: str, strike: Strike, adapters: Path, *, done: bool) -> None:
    real = getattr(owner, name)

    def move(source: Any, target: Any, *args: Any, **options: Any) -> Any:
        is_version = Path(target).parent.parent == adapters
        if is_version and not done:
            strike()
        result = real(source, target, *args, **options)
        if is_version and done:
            strike()
        return result

    setattr(owner, name, move)


def _before_the_rename(strike: Strike, state_dir: Path) -> None:
    _around_the_rename(strike, state_dir, done=False)


def _before_the_row(strike: Strike, state_dir: Path) -> None:
    _around_the_rename(strike, state_dir, done=True)


def _in_the_gate(strike: Strike, _: Path) -> None:
    from adapter_service.jobs import lesson

    _before(lesson, "decide", strike)


def _when_live(strike: Strike, _: Path) -> None:
    """The version serves, and its job is still running in the table."""
    from adapter_service.adapters import VersionStore

    _after(VersionStore, "go_live", strike)


def _in_an_upload(strike: Strike, _: Path) -> None:
    """Half of a file is in the store."""
    import adapter_service.publishing.folder_store

    folder_store: Any = adapter_service.publishing.folder_store
    real = folder_store.copy_bounded

    def copy_bounded(source: Any, target: Any, limit_bytes: int) -> Any:
        whole = source.read()
        target.write(whole[: len(whole) // 2])
        target.flush()
        strike()
        source.seek(0)
        target.seek(0)
        return real(source, target, limit_bytes)

    folder_store.copy_bounded = copy_bounded


POINTS: dict[str, Patch] = {
    "after-accept": _after_accept,
    "after-claim": _after_claim,
    "in-the-stream": _in_the_stream,
    "in-a-step": _in_a_step,
    "in-a-checkpoint": _in_a_checkpoint,
    "before-the-rename": _before_the_rename,
    "before-the-row": _before_the_row,
    "in-the-gate": _in_the_gate,
    "when-live": _when_live,
    "in-an-upload": _in_an_upload,
}
