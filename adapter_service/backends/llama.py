"""llama.cpp as a back end: a child process with a list of adapters, replaced by another when the list changes.

Its server knows no loading of adapters later (llama.cpp#22061). So a child with the longer list is started beside the
one that answers, takes over when it is ready, and the other ends with its last answer: no request is lost. The weights'
pages are the same memory in both; keys and values are not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.backends.llama_process import LlamaJob, LlamaProcess
from adapter_service.backends.reading import disk_faults, read_version
from adapter_service.backends.server import Ended, Said, Wanted
from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import (
    AdapterServiceError,
    BackendError,
    BackendUnreachableError,
    InvalidParameterError,
    NotReadyError,
    PromptTooLongError,
    SettingsError,
)

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 30.0
# Penalties first, as everywhere; then in the order of this service's own sampling.
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
# The largest of 32 bits means that it shall choose one.
_SEEDS = 2**32 - 1
# So many of the last children's logs are kept.
_LOGS = 4


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
        self._wanted: dict[str, AdapterFiles] = {}  # all that shall be loaded, by key
        self._process: LlamaProcess | None = None
        self._processes: set[LlamaProcess] = set()  # those that were replaced and have answers left, too
        self._started = 0
        self._closing = False
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
        self._closing = True
        async with self._building:
            for process in self._processes:
                process.end()
            await asyncio.gather(*(process.ended() for process in self._processes))

    async def load(self, files: AdapterFiles) -> None:
        self._wanted[files.key] = files
        try:
            await self._renew(files.key)
        except BaseException:
            self._wanted.pop(files.key, None)
            raise

    async def unload(self, key: str) -> None:
        """The next child is without it."""
        self._wanted.pop(key, None)

    async def answer(self, wanted: Wanted) -> AsyncGenerator[Said | Ended, None]:
        process = self._process
        key = wanted.adapter.key if wanted.adapter else None
        if process is None or not (key is None or key in process.adapters):
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
                    said = _said(event, told)
                    yield said
                    if isinstance(said, Ended):
                        return
                    told += said.tokens
        finally:
            process.let_go()

    async def metrics(self) -> list[tuple[str, str]]:
        process = self._process
        return [] if process is None else [("llama.cpp", await process.wire.get("/metrics"))]

    async def _renew(self, key: str | None = None) -> None:
        """Have a child with all that is wanted, or at least `key`; those who wait together get one child together."""
        async with self._building:
            if self._closing:
                raise NotReadyError("the service is stopping")
            old = self._process
            known = set() if old is None else set(old.adapters)
            new = self._wanted.keys() - known
            if old is not None and not new:
                return
            try:
                process = await self._start(self._wanted)
            except AdapterServiceError:
                others = new - {key}
                if key is None or not others:
                    raise
                # One of the others may be to blame, which is told to whoever wants that one.
                process = await self._start({one: self._wanted[one] for one in self._wanted.keys() - others})
            self._process, self._fault = process, None
            self._lost.clear()
            log.info("llama.cpp answers; adapters: %s", len(process.adapters), extra={"action": "backend_ready"})
            if old is not None:
                old.retire()

    async def _start(self, wanted: Mapping[str, AdapterFiles]) -> LlamaProcess:
        wanted = dict(wanted)
        with disk_faults("llama.cpp cannot be started"):
            model = await asyncio.to_thread(self._find_model)
            paths = await asyncio.to_thread(self._write_all, wanted)
        self._started += 1
        job = LlamaJob(model, paths, self.places, self._context_tokens, self._threads or self._base.precision.threads)
        process = await LlamaProcess.start(job, self._folder / f"{self._started % _LOGS}.log")
        self._processes.add(process)
        watch = process.when_ended(lambda status: self._has_ended(process, status))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return process

    def _has_ended(self, process: LlamaProcess, status: int) -> None:
        self._processes.discard(process)
        if process.is_ending:
            return
        log.error("llama.cpp has ended with status %s", status, extra={"action": "backend_lost"})
        if process is self._process:
            self._process = None
            self._fault = (
                f"llama.cpp has ended with status {status} and is being started again; try again in some seconds"
            )
            self._lost.set()

    def _write_all(self, wanted: Mapping[str, AdapterFiles]) -> dict[str, Path]:
        """The GGUF file of each; others that no child has go. On a thread of its own, one at a time."""
        from adapter_service.backends.gguf_adapter import architecture_of, write_gguf_adapter

        self._folder.mkdir(parents=True, exist_ok=True)
        paths = {key: self._folder / f"{key}.gguf" for key in wanted}
        used = {path for process in tuple(self._processes) for path in process.adapters.values()}
        for path in self._folder.glob("*.gguf"):
            if path not in used and path not in paths.values():
                path.unlink(missing_ok=True)
        config = self._base.model.config.get_text_config()
        for key, path in paths.items():
            if not path.exists():
                weights = read_version(wanted[key], self._base)
                write_gguf_adapter(weights, path, architecture_of(self._find_model()), config)
        return paths


def _said(event: Any, told: int) -> Said | Ended:
    """What an event says, after so many tokens.

    Raises:
        BackendError: it is none of llama.cpp's.
    """
    try:
        if event.get("stop"):
            return Ended("length" if event.get("stop_type") == "limit" else "stop")
        return Said(ChosenToken(int(event["tokens"][-1]), 0.0), str(event["content"]), event["tokens_predicted"] - told)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise BackendError(f"llama.cpp says what it never says ({type(error).__name__}: {error})") from error


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
        options["seed"] = sampling.seed % _SEEDS
    if sampling.constraint is not None:
        options["grammar"] = f"%llguidance {{}}\n{sampling.constraint.lark}"
    return options
