"""How far a run is, shown while it goes on: a bar on a terminal, a line now and then in a file or a pipe."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 15.0


class RunProgress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, stage: str, figures: str = "", *, completed: int | None = None, total: int | None = None) -> None:
        """Say where the run is: `completed` of `total`, where they are known."""
        ...


def run_progress(console: Console) -> RunProgress:
    """What suits the console's output."""
    return _Bar(console) if console.is_terminal else _Lines(console)


class _Bar:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, stage: str, figures: str = "", *, completed: int | None = None, total: int | None = None) -> None:
        self._progress.update(self._task, description=stage, figures=figures, total=total, completed=completed)


class _Lines:
    """The first line of every stage, then one in `LINE_SECONDS`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Every line is out already."""

    def show(self, stage: str, figures: str = "", *, completed: int | None = None, total: int | None = None) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._next_at:
            return
        self._stage, self._next_at = stage, now + LINE_SECONDS
        share = f"{completed / total:4.0%}  " if completed is not None and total else ""
        self._console.print(f"{stage:<10} {share}{figures}".rstrip(), highlight=False, soft_wrap=True)
