"""A server whose answers a test says word by word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from adapter_service.backends.server import Ended, Said, Wanted
from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.errors import BackendError
from tests.conftest import byte_tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

Line = Said | Ended | Exception


@cache
def tokens_of(text: str) -> tuple[int, ...]:
    """One for each byte, as the tiny base has them."""
    return tuple(byte_tokenizer().encode(text, add_special_tokens=False))


def spoken(text: str) -> list[Line]:
    """One token for each byte."""
    return [Said(ChosenToken(token, -0.5)) for token in tokens_of(text)]


class ScriptedServer:
    """Says the next of `scripts` for each answer; of one that waits, so much has been said at each `step`."""

    kind = "scripted"

    def __init__(self, scripts: Sequence[Sequence[Line]] = (), *, places: int = 2, tells_tokens: bool = True) -> None:
        self.places = places
        self.tells_tokens = tells_tokens
        self.scripts = list(scripts)
        self.fault: str | None = None
        self.waits = False
        self.loads_hang = False
        self.steps = asyncio.Semaphore(0)
        self.wanted: list[Wanted] = []
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.refused: set[str] = set()
        self.closed = 0
        self.running = 0
        self.most_running = 0

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        return [("scripted", self.fault)]

    def check(self, ask: Ask) -> None:
        """Everything is possible here."""

    async def run(self, base: BaseModel, answers: Callable[[], None]) -> None:
        answers()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """There is nothing to close."""

    async def load(self, files: AdapterFiles) -> None:
        await asyncio.sleep(0)
        if self.loads_hang:
            await asyncio.Event().wait()
        if files.key in self.refused:
            raise BackendError(f"{files.reference} is refused")
        self.loaded.append(files.key)

    async def unload(self, key: str) -> None:
        self.unloaded.append(key)

    async def answer(self, wanted: Wanted) -> AsyncGenerator[Said | Ended, None]:
        self.wanted.append(wanted)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for line in self.scripts.pop(0):
                await asyncio.sleep(0)
                if self.waits:
                    await self.steps.acquire()
                if isinstance(line, Exception):
                    raise line
                yield line
        except GeneratorExit:
            self.closed += 1
            raise
        except asyncio.CancelledError:
            self.closed += 1
            raise
        finally:
            self.running -= 1

    async def metrics(self) -> list[tuple[str, str]]:
        return [("scripted", "# TYPE x gauge\nx 1\n")]
