"""What a job said while it ran: one text file per job, each line with its UTC time, written at once.

A job's later attempts append to its file. Readers name a job, never a file.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from adapter_service.errors import UnknownJobError
from adapter_service.jobs.job import is_job_id

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogPage:
    """`lines` of a log from line `start` (0 is the first), of `total` so far."""

    start: int
    total: int
    lines: tuple[str, ...]


class JobLogs:
    """The logs of all jobs, in one folder; safe to share between threads."""

    def __init__(self, directory: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._directory = directory
        self._now = now
        self._lock = threading.Lock()

    def append(self, job_id: str, message: str) -> None:
        """Write `message`, each of its lines with the time; readers see it when this returns.

        It is handed to the system, not forced to the disk: a power cut may cost the last lines. One
        that cannot be written (a full disk) costs the line and not the job.
        """
        at = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        text = "".join(f"{at} {line}\n" for line in message.splitlines() or [""])
        path = self._path(job_id)
        try:
            with self._lock:
                self._directory.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
        except OSError:
            logger.warning("a line of the log of %s was not written: %s", job_id, message, exc_info=True)

    def read(self, job_id: str, start: int = 0, limit: int = 500) -> LogPage:
        """At most `limit` lines from line `start`; empty for a job that has said nothing yet."""
        with self._lines(job_id) as lines:
            before = sum(1 for _ in islice(lines, start))
            page = tuple(islice(lines, limit))
            total = before + len(page) + sum(1 for _ in lines)
        return LogPage(min(start, total), total, page)

    def tail(self, job_id: str, n: int = 200) -> LogPage:
        """The last `n` lines."""
        total = 0
        last: deque[str] = deque(maxlen=n)
        with self._lines(job_id) as lines:
            for line in lines:
                total += 1
                last.append(line)
        return LogPage(total - len(last), total, tuple(last))

    def newest(self, job_id: str, keep: int) -> LogTail:
        """What follows the log as it grows, with its last `keep` lines in hand."""
        return LogTail(self._path(job_id), keep)

    @contextmanager
    def _lines(self, job_id: str) -> Iterator[Iterator[str]]:
        path = self._path(job_id)
        if not path.exists():
            yield iter(())
            return
        # A power cut may leave half a character at the end; the rest is still worth reading.
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield (line.rstrip("\n") for line in file)

    def _path(self, job_id: str) -> Path:
        if not is_job_id(job_id):
            raise UnknownJobError(f"{job_id!r} is not a job id; it is `job_id` in the answer to the training request")
        return self._directory / f"{job_id}.log"


class LogTail:
    """The last `keep` lines of a log that grows; each byte of it is read once. For one thread at a time."""

    def __init__(self, path: Path, keep: int) -> None:
        self._path = path
        self._kept: deque[str] = deque(maxlen=keep)
        self._offset = 0
        self._total = 0

    def read(self, *, to_the_end: bool = False) -> LogPage:
        """The newest lines as they are now; empty for a job that has said nothing yet.

        A line without its end may still be being written; it is left for later, unless `to_the_end`
        says that nobody writes any more.
        """
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if line.endswith(b"\n") or to_the_end:
                        self._take(line)
        return LogPage(self._total - len(self._kept), self._total, tuple(self._kept))

    def _take(self, line: bytes) -> None:
        self._offset += len(line)
        self._total += 1
        self._kept.append(line.decode("utf-8", errors="replace").rstrip("\n"))
