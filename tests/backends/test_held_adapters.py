"""Versions that are loaded at a server, to the step of the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from adapter_service.backends.held_adapters import HeldAdapters
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.residency import Residency


class Loader:
    """Loads once it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.loaded: list[str] = []

    async def load(self, files: AdapterFiles) -> None:
        self.asked.set()
        await self.may.wait()
        self.loaded.append(files.key)

    async def unload(self, key: str) -> None:
        self.loaded.remove(key)


def test_who_comes_in_the_very_step_in_which_it_is_loaded_has_it(files: Callable[[str], AdapterFiles]) -> None:
    loaded: list[str] = []

    async def run() -> None:
        loader = Loader()
        held = HeldAdapters(loader, Residency(2, 10**6), lambda _: None)
        first = asyncio.create_task(held.load(files("x")))
        await loader.asked.wait()
        loader.may.set()
        await asyncio.gather(first, held.load(files("x")))
        loaded.extend(loader.loaded)

    # On a thread of its own: a loop that never yields cannot be timed out.
    thread = threading.Thread(target=asyncio.run, args=[run()], daemon=True)
    thread.start()
    thread.join(20)
    assert loaded == ["x"]
