"""vLLM as a back end: several servers of one base, the same adapters on each.

A version is loaded under a name and from a folder that no other content ever has, since vLLM keeps what it computed by
both, and is unloaded when nobody wants it any more. Its folder stays a while: an engine that looks for the files of an
adapter and does not find them ends. What a server has is compared with what it should have whenever it is looked at:
after a restart it has forgotten all of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.backends.following import cancel_all
from adapter_service.backends.peft_folder import UNFINISHED, write_peft_folder
from adapter_service.backends.reading import disk_faults, layers_of, read_version
from adapter_service.backends.server import Ended, Said, Wanted
from adapter_service.backends.vllm_server import ServedModels, VllmServer
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.errors import (
    AdapterServiceError,
    BackendError,
    BackendRefusalError,
    BackendUnreachableError,
    InvalidParameterError,
    PromptTooLongError,
)

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
_AWAY_SECONDS = 2.0
_SWEEP_SECONDS = 60.0
_MOST_TOP_LOGPROBS = 20
_KEY_CHARACTERS = 12
# An adapter of zeros, by which the base may be asked.
_ZERO = "base@0.000000000000"
_OURS = re.compile(r"@\d+\.[0-9a-f]{12}$")
# How long a folder stays that no server shall have: answers that were cut off there may still need it.
_KEPT_SECONDS = 600.0


class VllmFleet:
    """Servers at `urls`, by their names; adapters are written to `folder`, which they see as `seen_as`."""

    kind = "vllm"
    tells_tokens = True

    def __init__(
        self,
        urls: Mapping[str, str],
        folder: Path,
        *,
        seen_as: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        zero_adapter: bool = False,
        places_each: int,
    ) -> None:
        """`model` is the base's name there, None the only one; so many answers are asked of each at a time.

        With `zero_adapter` the base's answers are asked of an adapter of zeros: vLLM 0.32 on a CPU otherwise gives them
        what adapters in the same batch say.
        """
        self._servers = [VllmServer(name, url, api_key) for name, url in urls.items()]
        self._folder = folder
        self._seen_as = seen_as or str(folder)
        self._model = model
        self._zero_adapter = zero_adapter
        self.places = places_each * len(urls)
        self._wanted: dict[str, AdapterFiles | None] = {_ZERO: None} if zero_adapter else {}  # by their names there
        self._looks = asyncio.Event()

    @property
    def fault(self) -> str | None:
        faults = [f"{server.name}: {server.fault}" for server in self._servers if server.fault is not None]
        if len(faults) < len(self._servers):
            return None
        return f"no vLLM server answers ({'; '.join(faults)}); try again in some seconds"

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        return [(server.name, server.fault) for server in self._servers]

    def check(self, ask: Ask) -> None:
        sampling = ask.sampling
        if ask.scale != 1.0:
            raise InvalidParameterError(
                f"'lora_scale' is {ask.scale}, which vLLM cannot do; leave it out, or have the engine or llama.cpp "
                "answer (backend.kind)",
                parameter="lora_scale",
            )
        if sampling.top_logprobs > _MOST_TOP_LOGPROBS:
            raise InvalidParameterError(
                f"{sampling.top_logprobs} likeliest tokens are asked for; vLLM tells up to {_MOST_TOP_LOGPROBS}",
                parameter="logprobs",
            )
        room = min((one.models.context_tokens for one in self._servers if one.models is not None), default=2**31)
        if len(ask.prompt_ids) + sampling.max_new_tokens > room:
            raise PromptTooLongError(
                f"the prompt has {len(ask.prompt_ids)} tokens and {sampling.max_new_tokens} are to follow; the vLLM "
                f"servers have room for {room} (--max-model-len): shorten the prompt, or ask for a shorter answer"
            )

    async def run(self, base: BaseModel, answers: Callable[[], None]) -> None:
        self._base = base
        tasks = [asyncio.create_task(self._look_after(server, answers)) for server in self._servers]
        tasks.append(asyncio.create_task(self._sweep_now_and_then()))
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel_all(tasks)

    async def close(self) -> None:
        for server in self._servers:
            await server.wire.close()

    async def load(self, files: AdapterFiles) -> None:
        up = [server for server in self._servers if server.fault is None]
        if not up:
            raise BackendUnreachableError(self.fault or "no vLLM server answers; try again in some seconds")
        name = _name_of(files)
        self._wanted[name] = files
        done = await asyncio.gather(*(self._load_at(server, name) for server in up), return_exceptions=True)
        refused = [error for error in done if isinstance(error, BaseException)]
        if len(refused) == len(done):
            await self.unload(files.key)
            raise refused[0]
        for error in refused:
            log.warning("%s is not loaded everywhere: %s", files.reference, error, extra={"action": "load_failed"})

    async def unload(self, key: str) -> None:
        names = [name for name, files in self._wanted.items() if files is not None and files.key == key]
        for name in names:
            del self._wanted[name]
            await asyncio.gather(*(self._unload_at(server, name) for server in self._servers))
            with suppress(OSError):
                os.utime(self._folder / name)  # it stays so long from now on

    async def answer(self, wanted: Wanted) -> AsyncGenerator[Said | Ended, None]:
        name = _name_of(wanted.adapter) if wanted.adapter else (_ZERO if self._zero_adapter else None)
        server, models = self._least_busy(name)
        try:
            async with aclosing(server.answer(wanted, name or models.name)) as saying:
                async for said in saying:
                    yield said
        except BackendUnreachableError as error:
            self._lost(server, error)
            raise
        except BackendRefusalError as error:
            if error.reason == "unknown" and name is not None:  # it was restarted, and nobody has looked since
                server.loaded.discard(name)
                self._looks.set()
                raise BackendUnreachableError(f"{server.name} has forgotten {name}; try again") from error
            raise

    async def metrics(self) -> list[tuple[str, str]]:
        up = [server for server in self._servers if server.fault is None]
        texts = await asyncio.gather(*(server.metrics() for server in up))
        return [(server.name, text) for server, text in zip(up, texts, strict=True) if text is not None]

    def _least_busy(self, name: str | None) -> tuple[VllmServer, ServedModels]:
        """Of those that answer and have the adapter, the one with the fewest answers under way."""
        can = [
            (server, server.models)
            for server in self._servers
            if server.fault is None and server.models is not None and (name is None or name in server.loaded)
        ]
        if not can:
            raise BackendUnreachableError(self.fault or f"no vLLM server has {name} at the moment; try again")
        return min(can, key=lambda each: each[0].running)

    def _lost(self, server: VllmServer, error: BackendError) -> None:
        """An answer or a load has found out; it is looked at soon."""
        self._leave_out(server, error)
        self._looks.set()

    def _leave_out(self, server: VllmServer, error: BackendError) -> None:
        if server.fault != str(error):
            log.error("%s", error, extra={"action": "backend_lost"})
        server.fault = str(error)

    # What is loaded where.

    async def _load_at(self, server: VllmServer, name: str) -> None:
        async with server.changing:
            try:
                await self._load_there(server, name)
            except BackendUnreachableError as error:
                self._lost(server, error)
                raise

    async def _unload_at(self, server: VllmServer, name: str) -> None:
        async with server.changing:
            if name in server.loaded:
                await server.unload(name)

    async def _load_there(self, server: VllmServer, name: str) -> None:
        if name in server.loaded or name not in self._wanted or server.models is None:
            return
        await asyncio.to_thread(self._write, name, server.models.root)
        await server.load(name, f"{self._seen_as}/{name}")

    async def _look_after(self, server: VllmServer, answers: Callable[[], None]) -> None:
        while True:
            try:
                async with server.changing:
                    server.models = found = await server.look(self._model)
                    await self._reconcile(server, found)
            except BackendError as error:
                self._leave_out(server, error)
            except Exception as error:
                log.exception("%s is left out", server.name, extra={"action": "backend_failed"})
                self._leave_out(server, BackendError(f"{server.name} is left out: {type(error).__name__}; see the log"))
            else:
                if server.fault is not None:
                    server.fault = None
                    log.info("%s answers for %s", server.name, found.name, extra={"action": "backend_ready"})
                    answers()
            await self._wait(_LOOK_SECONDS if server.fault is None else _AWAY_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """So long, or until another look is worth it."""
        try:
            async with asyncio.timeout(seconds):
                await self._looks.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_AWAY_SECONDS / 4)
        self._looks.clear()

    async def _reconcile(self, server: VllmServer, found: ServedModels) -> None:
        """Load what it has forgotten, unload what an earlier run of ours has left; others' adapters are others'."""
        ours = {name for name, root in found.adapters.items() if root == f"{self._seen_as}/{name}"}
        server.loaded = ours & self._wanted.keys()
        for name in sorted(ours - self._wanted.keys()):
            await server.unload(name)
        for name in sorted(self._wanted.keys() - ours):
            try:
                await self._load_there(server, name)
            except BackendUnreachableError:
                raise
            except AdapterServiceError as error:  # this adapter's matter: the server answers for the others
                log.warning("%s has no %s: %s", server.name, name, error, extra={"action": "load_failed"})

    # Its folders. On threads of their own.

    def _write(self, name: str, base_name: str) -> None:
        folder, files = self._folder / name, self._wanted.get(name)
        with disk_faults(f"{folder.name} cannot be written for vLLM"):
            if folder.is_dir():
                os.utime(folder)
            elif files is not None:
                write_peft_folder(read_version(files, self._base), folder, base_name=base_name)
            elif name == _ZERO:
                self._write_zeros(folder, base_name)

    def _write_zeros(self, folder: Path, base_name: str) -> None:
        """An adapter of rank 1 on one layer, which adds nothing."""
        import torch

        from adapter_service.lora.adapter import LowRankPair

        path, layer = next(iter(layers_of(self._base).items()))
        zeros = LowRankPair(torch.zeros(1, layer.in_features), torch.zeros(layer.out_features, 1), 1.0)
        write_peft_folder({path: zeros}, folder, base_name=base_name)

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        """Remove the folders of adapters that no server of ours has had for a while, and unfinished ones."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                kept = {*self._wanted, *(name for server in self._servers for name in server.loaded)}
                is_ours = _OURS.search(path.name) or path.name.startswith(UNFINISHED)
                if is_ours and path.name not in kept and time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _name_of(files: AdapterFiles) -> str:
    """Of this content alone, and people see whose it is."""
    return f"{files.reference}.{files.key[:_KEY_CHARACTERS]}"
