"""Keeps the live versions of some adapters resident: what goes live is loaded, and what it replaces may go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError

log = logging.getLogger(__name__)

# A disk or a database may be better by then; nobody is told when it is.
_RETRY_SECONDS = 60.0


class PinnedAdapters:
    """Pins the live versions of `names` on a thread of its own, for a disk may be slow.

    What fails is tried again, now and then and whenever a version goes live. `live` gives an adapter's live
    version, or None while it has none.
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
        failed = False
        while not self._stopping:
            self._woken.wait(_RETRY_SECONDS if failed else None)
            self._woken.clear()
            if not self._stopping and self._engine.state == "ready":
                failed = not all(list(map(self._pin, self._names)))  # each of them, whatever another comes to

    def _pin(self, name: str) -> bool:
        """False when it is to be tried again."""
        try:
            files = self._live(name)
            if files is None or files.key == self._pinned.get(name):
                return True
            if name in self._pinned:
                self._engine.unpin(self._pinned.pop(name))
            self._engine.pin(files)
            self._pinned[name] = files.key
        except AdapterServiceError as error:
            log.warning("adapter %s is not kept resident: %s", name, error, extra={"action": "pin_failed"})
            return False
        except Exception:
            # Whatever a disk or a database comes to: without this thread no version is pinned any more.
            log.exception("adapter %s is not kept resident", name, extra={"action": "pin_failed"})
            return False
        return True
