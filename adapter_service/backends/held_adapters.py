"""Which versions are loaded at a server: those in use, those that are live or pinned, and the latest of the others.

All on the dispatcher's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.residency import Residency
from adapter_service.errors import AdapterServiceError, BackendUnreachableError

log = logging.getLogger(__name__)


class Loader(Protocol):
    """What of a server is needed here."""

    async def load(self, files: AdapterFiles) -> None: ...

    async def unload(self, key: str) -> None: ...


class HeldAdapters:
    """At most as many as `residency` says; `loaded` is told how long each took."""

    def __init__(self, loader: Loader, residency: Residency[AdapterFiles], loaded: Callable[[float], None]) -> None:
        self._loader = loader
        self._residency = residency
        self._loaded = loaded
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._live: dict[str, AdapterFiles] = {}
        self._replaced: set[str] = set()  # were live, and go after their last answer
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
        """Have it loaded; whoever wants the same waits for the same.

        Raises:
            AdapterServiceError: why it cannot be.
        """
        while self._residency.state(files.key) != "resident":
            task = self._loading.get(files.key)
            if task is None:
                task = asyncio.create_task(self._load(files))
                self._loading[files.key] = task
                task.add_done_callback(lambda _: self._loading.pop(files.key, None))
            await asyncio.shield(task)
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
        """Have `live` loaded, as many as there is room for, the most recent ones; what they replaced goes.

        What cannot be loaded is left for the next time, or for the first request that names it.
        """
        now = {files.key: files for files in live[: self._residency.max_adapters]}
        self._replaced = (self._replaced | (self._live.keys() - now.keys())) - now.keys()
        self._live = now
        for files in now.values():
            try:
                await self.load(files)
            except BackendUnreachableError:
                break  # it looks again when the server is back
            except AdapterServiceError as error:
                log.warning("%s is not loaded: %s", files.reference, error, extra={"action": "load_failed"})
        for key in list(self._replaced):
            await self._released(key)

    async def _load(self, files: AdapterFiles) -> None:
        started = time.monotonic()
        await self._loader.load(files)
        size = sum(path.stat().st_size for path in files.folder.glob("*.safetensors"))
        while True:
            before = self._residency.keys()
            if self._residency.add(files.key, files, size):
                break
            async with self._let_go:
                await self._let_go.wait()
        self._loaded(time.monotonic() - started)
        log.info("%s is loaded", files.reference, extra={"action": "adapter_loaded"})
        for key in before:
            if self._residency.state(key) != "resident":
                await self._unload(key)

    async def _released(self, key: str) -> None:
        if key in self._replaced and self._residency.remove(key):
            await self._unload(key)
        async with self._let_go:
            self._let_go.notify_all()

    async def _unload(self, key: str) -> None:
        self._replaced.discard(key)
        await self._loader.unload(key)


Live = Callable[[], Awaitable[Sequence[AdapterFiles]]]
