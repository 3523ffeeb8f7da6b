"""Which versions are loaded at a server: those in use, those that are live or pinned, and the latest of the others.

All on the dispatcher's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from adapter_service.backends.following import cancel_all
from adapter_service.backends.reading import disk_faults, weight_bytes
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.residency import Residency
from adapter_service.errors import AdapterServiceError, BackendUnreachableError

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What of a server is needed here."""

    async def load(self, files: AdapterFiles) -> None: ...

    async def unload(self, key: str) -> None: ...


@dataclass(eq=False)
class _Loading:
    """A version that is being loaded for so many; before it has `begun` at the server, it waits for room."""

    waiters: int = 0
    begun: bool = False
    task: asyncio.Task[None] | None = None


class HeldAdapters:
    """At most as many as `residency` says: room is made before one is loaded. `loaded` is told how long each took."""

    def __init__(self, loader: Loader, residency: Residency[None], loaded: Callable[[float], None]) -> None:
        self._loader = loader
        self._residency = residency
        self._loaded = loaded
        self._loading: dict[str, _Loading] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._live: set[str] = set()
        self._replaced: set[str] = set()  # were live, and go after their last answer
        self._failed: set[str] = set()  # live ones of which it was said why they are not loaded
        self._let_go = asyncio.Condition()

    @asynccontextmanager
    async def use(self, files: AdapterFiles | None) -> AsyncGenerator[None, None]:
        """Loaded while the block runs; None is the base, which always is.

        Raises:
            AdapterServiceError: why it cannot be loaded.
        """
        if files is None:
            yield
            return
        await self.load(files)
        self._residency.acquire(files.key)
        try:
            yield
        finally:
            self._residency.release(files.key)
            await self._released(files.key)

    async def load(self, files: AdapterFiles) -> None:
        """Have it loaded; whoever wants the same waits for the same, and nobody's wish is no wish.

        Raises:
            AdapterServiceError: why it cannot be.
        """
        while (loading := self._loading.get(files.key)) or self._residency.state(files.key) != "resident":
            await self._wait_for(files.key, loading or self._begin(files))
        self._residency.touch(files.key)

    async def pin(self, files: AdapterFiles) -> None:
        """Have it loaded, and keep it until `unpin`.

        Raises:
            AdapterServiceError: as many are pinned as may be, or why it cannot be loaded.
        """
        self._residency.pin(files.key)
        try:
            await self.load(files)
        except BaseException:
            self._residency.unpin(files.key)
            raise

    async def unpin(self, key: str) -> None:
        self._residency.unpin(key)
        await self._released(key)

    async def keep_live(self, live: Sequence[AdapterFiles]) -> None:
        """Have those of `live` loaded that there is room for, the first ones first; what they replaced goes.

        One that cannot be loaded is left for the next time, or for the first request that names it.
        """
        now = {files.key for files in live}
        self._replaced = (self._replaced | (self._live - now)) - now
        self._live, self._failed = now, self._failed & now
        for files in live:
            try:
                await self._load_into_room(files)
            except BackendUnreachableError:
                break  # it looks again when the server is back
            except AdapterServiceError as error:
                if files.key not in self._failed:
                    log.warning("%s is not loaded: %s", files.reference, error, extra={"action": "load_failed"})
                self._failed.add(files.key)
        for key in list(self._replaced):
            await self._released(key)

    async def close(self) -> None:
        """Load and unload no more."""
        await cancel_all([*(loading.task for loading in self._loading.values()), *self._unloading.values()])

    def _begin(self, files: AdapterFiles) -> _Loading:
        loading = self._loading[files.key] = _Loading()
        loading.task = asyncio.create_task(self._load(files, loading))
        return loading

    async def _wait_for(self, key: str, loading: _Loading) -> None:
        assert loading.task is not None  # noqa: S101 - it has one from its beginning on
        loading.waiters += 1
        try:
            await asyncio.shield(loading.task)
        finally:
            loading.waiters -= 1
            if not (loading.waiters or loading.begun):
                self._forget(key, loading)
                loading.task.cancel()

    def _forget(self, key: str, loading: _Loading) -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]

    async def _load_into_room(self, files: AdapterFiles) -> None:
        """Nothing where it is loaded, or another would have to go."""
        if self._residency.state(files.key) != "resident":
            if self._residency.has_room(await self._size(files)):
                await self.load(files)
            self._failed.discard(files.key)

    async def _load(self, files: AdapterFiles, loading: _Loading) -> None:
        started = time.monotonic()
        try:
            await self._make_room(files.key, await self._size(files))
            await self._load_in_its_place(files, loading)
        finally:
            self._forget(files.key, loading)  # not later: who came upon one that has ended would wait for nothing
        self._loaded(time.monotonic() - started)
        log.info("%s is loaded", files.reference, extra={"action": "adapter_loaded"})

    async def _load_in_its_place(self, files: AdapterFiles, loading: _Loading) -> None:
        key = files.key
        self._residency.acquire(key)  # so that it stays while it is loaded
        try:
            loading.begun = True
            if (unloading := self._unloading.get(key)) is not None:
                await asyncio.shield(unloading)
            await self._loader.load(files)
        except BaseException:
            self._residency.release(key)
            self._residency.remove(key)
            raise
        self._residency.release(key)

    async def _make_room(self, key: str, size: int) -> None:
        """Its place is its own then; what was used longest ago goes, or it waits for one that is in use."""
        while True:
            before = self._residency.keys()
            if self._residency.add(key, None, size):
                break
            async with self._let_go:
                await self._let_go.wait()
        for other in before:
            if self._residency.state(other) != "resident":
                self._unload(other)

    async def _size(self, files: AdapterFiles) -> int:
        with disk_faults(f"{files.reference} cannot be read"):
            return await asyncio.to_thread(weight_bytes, files)

    async def _released(self, key: str) -> None:
        if key in self._replaced and key not in self._loading and self._residency.remove(key):
            self._unload(key)
        async with self._let_go:
            self._let_go.notify_all()

    def _unload(self, key: str) -> None:
        """Nobody waits for that but who wants the same again."""
        self._replaced.discard(key)
        task = self._unloading[key] = asyncio.create_task(self._loader.unload(key))
        task.add_done_callback(lambda _: self._unloading.pop(key, None))
