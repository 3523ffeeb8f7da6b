"""Keeps the live versions of some adapters resident: what goes live is loaded, and what it replaces may go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError

log = logging.getLogger(__name__)


class PinnedAdapters:
    """Pins the live versions of `names` on a thread of its own, for a disk may be slow.

    `live` gives an adapter's live version, or None while it has none.
    """

    def __init__(self, engine: Engine, live: Callable[[str], AdapterFiles | None], names: Sequence[str]) -> None:
        self._engine = engine
        self._live = live
        self._names = names
        self._pinned: dict[str, str] = {}
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="pinning", daemon=True)

    def start(self) -> None:
        """Without names there is nothing to do."""
        if self._names:
            self._thread.start()

    def wake(self) -> None:
        """The base has been loaded, or a version went live."""
        self._woken.set()

    def stop(self) -> None:
        """Pin no other; it is not waited for."""
        self._stopping = True
        self.wake()

    def _loop(self) -> None:
        while self._woken.wait() and not self._stopping:
            self._woken.clear()
            if self._engine.state == "ready":
                for name in self._names:
                    self._pin(name)

    def _pin(self, name: str) -> None:
        try:
            files, earlier = self._live(name), self._pinned.get(name)
            if files is None or files.key == earlier:
                return
            if earlier is not None:
                self._engine.unpin(earlier)
            self._engine.pin(files)
            self._pinned[name] = files.key
        except AdapterServiceError as error:
            self._pinned.pop(name, None)
            log.warning("adapter %s is not kept resident: %s", name, error, extra={"action": "pin_failed"})
