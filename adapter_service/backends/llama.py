"""llama.cpp as a back end: a child process with a list of adapters, replaced by another when the list changes.

Its server knows no loading of adapters later (llama.cpp#22061). So a child with the longer list is started beside the
one that answers, takes over when it is ready, and the other ends with its last answer: no request is lost, and the
file's pages are the same memory in both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.backends.llama_process import LlamaJob, LlamaProcess
from adapter_service.backends.server import Ended, Said, Wanted
from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import (
    AdapterServiceError,
    BackendUnreachableError,
    InvalidParameterError,
    PromptTooLongError,
    SettingsError,
)

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 30.0
# Penalties first, as everywhere; then in the order of this service's own sampling.
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
_LOG = "llama.cpp.log"


class LlamaServer:
    """`find_model` gives the base's GGUF file, which may have to be put together first; `folder` is for ours."""

    kind = "llama.cpp"
    tells_tokens = False  # within a character of several tokens, it tells the last one alone

    def __init__(
        self, find_model: Callable[[], Path], folder: Path, *, places: int, context_tokens: int, threads: int | None
    ) -> None:
        """`context_tokens` are for each of `places` answers; `threads` None are as many as torch has.

        Raises:
            SettingsError: xllamacpp is not installed.
        """
        if find_spec("xllamacpp") is None:
            raise SettingsError(
                "'backend.kind' is llama.cpp and the package xllamacpp is not installed; "
                "run `pip install 'adapter-service[llama]'`"
            )
        self._find_model = find_model
        self._folder = folder
        self.places = places
        self._context_tokens = context_tokens
        self._threads = threads
        self._paths: dict[str, Path] = {}  # of all that shall be loaded
        self._process: LlamaProcess | None = None
        self._building = asyncio.Lock()
        self._lost = asyncio.Event()
        self._watches: set[asyncio.Task[None]] = set()
        self._fault: str | None = "llama.cpp is being started; try again in some seconds"

    @property
    def fault(self) -> str | None:
        return self._fault

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        return [("llama.cpp", self._fault)]

    def check(self, ask: Ask) -> None:
        sampling = ask.sampling
        for field, asked in (("min_tokens", sampling.min_new_tokens), ("logprobs", sampling.return_tokens)):
            if asked:
                raise InvalidParameterError(
                    f"'{field}' is asked for (or 'return_tokens'), which llama.cpp's server cannot do; leave it out, "
                    "or have the engine or vLLM answer (backend.kind)",
                    parameter=field,
                )
        if len(ask.prompt_ids) + sampling.max_new_tokens > self._context_tokens:
            raise PromptTooLongError(
                f"the prompt has {len(ask.prompt_ids)} tokens and {sampling.max_new_tokens} are to follow; llama.cpp "
                f"has room for {self._context_tokens}: shorten the prompt, or ask for a shorter answer"
            )

    async def run(self, base: BaseModel, answers: Callable[[], None]) -> None:
        self._base = base
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("*.gguf"):  # of an earlier run
            left.unlink()
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                if self._process is None:
                    await self._renew()
                answers()
                wait = _FIRST_WAIT_SECONDS
                await self._lost.wait()
            except AdapterServiceError as error:
                self._fault = f"{error}; it is tried again"
                log.error("%s", error, extra={"action": "backend_failed"})
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def close(self) -> None:
        if self._process is not None:
            self._process.end()
            await self._process.ended()

    async def load(self, files: AdapterFiles) -> None:
        key = files.key
        if self._process is not None and key in self._process.keys and key in self._paths:
            return
        path = self._folder / f"{key}.gguf"
        await asyncio.to_thread(self._write, files, path)
        self._paths[key] = path
        try:
            await self._renew()
        except AdapterServiceError:
            self._paths.pop(key, None)
            raise

    async def unload(self, key: str) -> None:
        """The next child is without it."""
        if (path := self._paths.pop(key, None)) is not None:
            path.unlink(missing_ok=True)

    async def answer(self, wanted: Wanted) -> AsyncGenerator[Said | Ended, None]:
        process = self._process
        key = wanted.adapter.key if wanted.adapter else None
        if process is None or not (key is None or key in process.keys):
            raise BackendUnreachableError(self._fault or "llama.cpp is being started; try again in some seconds")
        body = {
            "prompt": wanted.prompt_ids,
            **_options(wanted.sampling),
            "repeat_last_n": self._context_tokens,
            "lora": process.lora(key, wanted.scale),
        }
        process.take()
        try:
            async with process.wire.events("/completion", body) as events, aclosing(events):
                told = 0
                async for event in events:
                    if event.get("stop"):
                        yield Ended("length" if event.get("stop_type") == "limit" else "stop")
                        return
                    count = event["tokens_predicted"]
                    yield Said(ChosenToken(event["tokens"][-1], 0.0), event["content"], count - told)
                    told = count
        finally:
            process.let_go()

    async def metrics(self) -> list[tuple[str, str]]:
        process = self._process
        return [] if process is None else [("llama.cpp", await process.wire.get("/metrics"))]

    async def _renew(self) -> None:
        """Have a child that has all adapters; those who wait together get one child together."""
        async with self._building:
            old = self._process
            if old is not None and self._paths.keys() <= set(old.keys):
                return
            model = await asyncio.to_thread(self._find_model)
            threads = self._threads or self._base.precision.threads
            job = LlamaJob(model, dict(self._paths), self.places, self._context_tokens, threads)
            process = await LlamaProcess.start(job, self._folder / _LOG)
            self._process, self._fault = process, None
            self._lost.clear()
            watch = process.when_lost(lambda status: self._was_lost(process, status))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
            log.info("llama.cpp answers, with %s adapters", len(process.keys), extra={"action": "backend_ready"})
            if old is not None:
                old.retire()

    def _was_lost(self, process: LlamaProcess, status: int) -> None:
        if process is not self._process:  # one that was retired, and had answers left
            log.warning("a replaced llama.cpp ended with status %s", status, extra={"action": "backend_lost"})
            return
        self._process = None
        self._fault = f"llama.cpp has ended with status {status} and is being started again; try again in some seconds"
        log.error("%s", self._fault, extra={"action": "backend_lost"})
        self._lost.set()

    def _write(self, files: AdapterFiles, path: Path) -> None:
        """On a thread of its own."""
        from adapter_service.adapters.artifact import verify_folder
        from adapter_service.backends.gguf_adapter import architecture_of, write_gguf_adapter
        from adapter_service.lora.folder import read_weights
        from adapter_service.lora.layer import LowRankLinear

        if path.exists():
            return
        verify_folder(files.folder)
        model = self._base.model
        layers = {module.path: module for module in model.modules() if isinstance(module, LowRankLinear)}
        _, weights = read_weights(files.folder, layers)
        write_gguf_adapter(weights, path, architecture_of(self._find_model()), model.config.get_text_config())


def _options(sampling: Sampling) -> dict[str, Any]:
    """In llama.cpp's words; what is left out there is not off but its own default."""
    options: dict[str, Any] = {
        "n_predict": sampling.max_new_tokens,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
        "samplers": _SAMPLERS,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
    }
    if sampling.seed is not None:
        options["seed"] = sampling.seed % 2**32
    if sampling.constraint is not None:
        options["grammar"] = f"%llguidance {{}}\n{sampling.constraint.lark}"
    return options
