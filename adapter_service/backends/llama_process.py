"""One llama.cpp server with a fixed list of adapters, in a child process of ours."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_service.backends.reading import disk_faults
from adapter_service.backends.wire import Wire
from adapter_service.errors import BackendError

CHILD = "adapter_service.backends.llama_child"
_START_SECONDS = 300.0
_END_SECONDS = 5.0
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class LlamaJob:
    """What one is started with; `adapters` are GGUF files by version key."""

    model: Path
    adapters: Mapping[str, Path]
    places: int
    context_tokens: int
    threads: int


class LlamaProcess:
    """Made by `start`; it goes when `retire` was called and its last answer has ended."""

    def __init__(self, process: asyncio.subprocess.Process, wire: Wire, job: LlamaJob) -> None:
        self._process = process
        self.wire = wire
        self.adapters = dict(job.adapters)
        self._users = 0
        self._retired = False
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, job: LlamaJob, log_file: Path) -> LlamaProcess:
        """Start it, and wait until it answers; what it says of itself goes to `log_file`.

        Raises:
            BackendError: it ended instead, or took too long.
            StorageError: there is no room for its log.
        """
        key = secrets.token_urlsafe(24)
        with disk_faults("llama.cpp cannot be started"), log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", CHILD,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which lets answers end first
            )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS):
                url = await _address(process, job, key)
        except BaseException as error:
            await _killed(process)
            if isinstance(error, TimeoutError):
                raise BackendError(f"llama.cpp did not start within {_START_SECONDS:.0f} s{_last(log_file)}") from error
            if isinstance(error, ValueError | OSError):
                raise BackendError(f"llama.cpp did not start{_last(log_file)}") from error
            raise
        return cls(process, Wire("llama.cpp", url, api_key=key), job)

    def lora(self, key: str | None, scale: float) -> list[dict[str, Any]]:
        """How much of each adapter an answer has: all of them are named, or those of an earlier answer would stay."""
        return [{"id": place, "scale": scale if known == key else 0.0} for place, known in enumerate(self.adapters)]

    def take(self) -> None:
        """One more answer is asked of it."""
        self._users += 1

    def let_go(self) -> None:
        """One fewer."""
        self._users -= 1
        if self._retired and not self._users:
            self.end()

    def retire(self) -> None:
        """Another has taken its place: it ends with its last answer."""
        self._retired = True
        if not self._users:
            self.end()

    def when_ended(self, tell: Callable[[int], None]) -> asyncio.Task[None]:
        """Call `tell` with its exit status once it has ended, however."""

        async def watch() -> None:
            tell(await self._process.wait())

        return asyncio.create_task(watch())

    @property
    def is_ending(self) -> bool:
        """Whether it was told to."""
        return self._ending is not None

    def end(self) -> None:
        """Now, whoever is being answered."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    async def ended(self) -> None:
        """Once `end` has been called, wait for it."""
        if self._ending is not None:
            await self._ending

    async def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()  # which it ends by
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await _killed(self._process)
        await self.wire.close()


async def _address(process: asyncio.subprocess.Process, job: LlamaJob, key: str) -> str:
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101 - both are pipes
    described = {
        "model": str(job.model),
        "adapters": [str(path) for path in job.adapters.values()],
        "places": job.places,
        "context_tokens": job.context_tokens,
        "threads": job.threads,
        "api_key": key,
    }
    process.stdin.write(json.dumps(described).encode() + b"\n")
    await process.stdin.drain()
    # The native library may write to standard output too.
    while line := await process.stdout.readline():
        if line.startswith(b'{"url"'):
            return str(json.loads(line)["url"])
    raise OSError("it ended")


async def _killed(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        process.kill()
    await process.wait()


def _last(log_file: Path) -> str:
    """The end of what it said."""
    lines = log_file.read_text(errors="replace").strip().splitlines()[-3:]
    said = " / ".join(lines)[-_SHOWN_CHARACTERS:]
    return f": {said}" if said else "; it said nothing"
