"""Reads adapters ahead on a thread of its own: a slow disk delays the requests that wait for it, and nobody else.

What is read is handed over on that thread; the engine puts it where its own thread finds it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError

log = logging.getLogger(__name__)
T = TypeVar("T")


class AdapterReader(Generic[T]):
    """Calls `read`, then `deliver` with what came of it, for one adapter after the other as they were asked for.

    `deliver` gets the error where `read` raised one; either way it is called once for each that was asked
    for, unless the reader is closed before.
    """

    def __init__(self, read: Callable[[AdapterFiles], T], deliver: Callable[[AdapterFiles, T | Exception], None]):
        self._read = read
        self._deliver = deliver
        self._condition = threading.Condition()
        self._asked: dict[str, AdapterFiles] = {}  # by key, in the order of asking; the first is being read
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="adapter-reader", daemon=True)
        self._thread.start()

    def ask(self, files: AdapterFiles) -> None:
        """Have it read. Nothing happens where it was asked for already and is not read yet, or after `close`."""
        with self._condition:
            if not self._closed and files.key not in self._asked:
                self._asked[files.key] = files
                self._condition.notify()

    def close(self) -> None:
        """Deliver no more; the thread is not waited for, and ends when its disk lets it."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def _run(self) -> None:
        while (files := self._first()) is not None:
            self._read_and_deliver(files)

    def _first(self) -> AdapterFiles | None:
        """What was asked for first; None once nothing more is wanted."""
        with self._condition:
            self._condition.wait_for(lambda: self._asked or self._closed)
            return None if self._closed else next(iter(self._asked.values()))

    def _read_and_deliver(self, files: AdapterFiles) -> None:
        # In a function of its own: a local of the loop would keep the last adapter in memory after it was let go.
        came = self._outcome(files)
        with self._condition:
            del self._asked[files.key]  # before it is delivered, or who asks again at once would not be heard
        try:
            if not self._closed:
                self._deliver(files, came)
        except Exception:
            log.exception("an adapter was read for nobody", extra={"action": "delivery_failed"})

    def _outcome(self, files: AdapterFiles) -> T | Exception:
        try:
            return self._read(files)
        except Exception as error:
            if not isinstance(error, AdapterServiceError):
                log.exception("an adapter could not be read", extra={"action": "reading_failed"})
            # Without the traceback, whose frames have what was read so far.
            return error.with_traceback(None)
