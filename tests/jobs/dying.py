"""The trainer's command line in a process that kills itself at the n-th call of a function, and notes what it did.

    python -m tests.jobs.dying NOTES POINT N ARGUMENT…

`N` = 0 kills nothing. What was rendered and which steps were done is written to NOTES, a line each.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_service import train_adapt
from adapter_service.rendering import Renderer
from adapter_service.training import checkpoint, loop, spool

POINTS: dict[str, tuple[Any, str]] = {
    "rendering a sample": (Renderer, "render"),
    "in a micro-step": (loop, "completion_states"),
    "before the rename of a checkpoint": (checkpoint, "sync_folder"),
    "measuring": (train_adapt, "measure"),
}


def _patch(owner: Any, name: str, before: Callable[..., object]) -> None:
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        before(*args)
        return real(*args, **kwargs)

    setattr(owner, name, call)


def main(notes: Path, point: str, at_call: int, arguments: list[str]) -> int:
    spool.KEEP_SECONDS = 0.0  # a toy stream takes milliseconds
    calls = itertools.count(1)
    with notes.open("a", buffering=1) as file:
        _patch(Renderer, "render", lambda *_: file.write("rendered\n"))
        _patch(train_adapt._Display, "trained", lambda _, progress: file.write(f"step {progress.step}\n"))

        def die_in_time(*_: object) -> None:
            if next(calls) == at_call:
                os.kill(os.getpid(), signal.SIGKILL)

        if at_call:
            _patch(*POINTS[point], die_in_time)
        return train_adapt.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
