"""One vLLM server: what it has loaded, and one answer of it.

As in vLLM 0.32: `/v1/models` tells names with their folders, `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`
change them (with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 alone), `/v1/completions` streams token ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from adapter_service.backends.server import Ended, Said, Wanted
from adapter_service.backends.wire import Wire
from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.requests import Sampling
from adapter_service.errors import BackendError, BackendRefusalError, BackendUnreachableError

# Loading stops everybody else's answers there, and reads from a disk that may be on another machine.
_LOAD_SECONDS = 300.0
_LOOK_SECONDS = 5.0
_METRICS_SECONDS = 1.0
_ID = "token_id:"


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What a server has: its base's `name`, folder or Hub id and longest text, and each adapter's folder by name."""

    name: str
    root: str
    context_tokens: int
    adapters: Mapping[str, str]


class VllmServer:
    """`fault` says why it does not answer now; whoever finds out writes it.

    `changing` is held around looking and what follows from it, loading and unloading.
    """

    def __init__(self, name: str, url: str, api_key: str | None) -> None:
        self.name = name
        self.wire = Wire(name, url, api_key=api_key)
        self.fault: str | None = "it has not been asked yet"
        self.models: ServedModels | None = None
        self.loaded: set[str] = set()
        self.running = 0
        self.changing = asyncio.Lock()

    async def look(self, model: str | None) -> ServedModels:
        """What it has now, of the base `model`, or of the only one.

        Raises:
            BackendError: it does not answer, has no such base, or several and none is named.
        """
        told = await self.wire.get_json("/v1/models", seconds=_LOOK_SECONDS)
        with self._understood():
            entries = [dict(entry) for entry in told["data"]]
            bases = [entry for entry in entries if not entry.get("parent")]
            wanted = [entry for entry in bases if model in {None, entry["id"]}]
            if len(wanted) != 1:
                names = ", ".join(str(entry["id"]) for entry in bases) or "none"
                raise BackendError(
                    f"{self.name} has the bases: {names}; "
                    + (
                        f"none is called {model!r}: correct 'backend.model'"
                        if model
                        else "say which by 'backend.model'"
                    )
                )
            (base,) = wanted
            return ServedModels(
                name=str(base["id"]),
                root=str(base.get("root") or base["id"]),
                context_tokens=int(base.get("max_model_len") or 2**31),
                adapters={str(entry["id"]): str(entry.get("root")) for entry in entries if entry.get("parent")},
            )

    async def load(self, name: str, path: str) -> None:
        """Have an adapter's folder loaded under a name that it has not had before.

        Raises:
            BackendError: it refuses, with its reason, or does not answer.
        """
        body = {"lora_name": name, "lora_path": path}
        try:
            await self.wire.post("/v1/load_lora_adapter", body, seconds=_LOAD_SECONDS)
        except BackendRefusalError as error:
            if "already been loaded" in str(error):  # a name is for one content, so it is this
                pass
            elif "No adapter found" in str(error):
                raise BackendError(
                    f"{self.name} finds no adapter where this service wrote one; it has to see 'backend.adapter_dir' "
                    f"as 'backend.server_adapter_dir' ({error})"
                ) from error
            elif error.reason == "unknown":
                raise BackendError(
                    f"{self.name} loads no adapters while it runs: start it with --enable-lora and "
                    f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 ({error})"
                ) from error
            else:
                raise
        self.loaded.add(name)

    async def unload(self, name: str) -> None:
        """Have it forget a name; nothing where it has none of it, or is away."""
        self.loaded.discard(name)
        with suppress(BackendError):
            await self.wire.post("/v1/unload_lora_adapter", {"lora_name": name})

    async def answer(self, wanted: Wanted, model: str) -> AsyncGenerator[Said | Ended, None]:
        """As `Server.answer`; `model` is the base's or an adapter's name there."""
        body = {"model": model, "prompt": wanted.prompt_ids, **_options(wanted.sampling, wanted.ends)}
        self.running += 1
        try:
            async with self.wire.events("/v1/completions", body) as events, aclosing(events):
                async for event in events:
                    for said in self._parts(event, wanted.sampling.top_logprobs):
                        yield said
                        if isinstance(said, Ended):
                            return
        finally:
            self.running -= 1

    async def metrics(self) -> str | None:
        """None where it tells none in time."""
        with suppress(BackendError):
            return await self.wire.get("/metrics", seconds=_METRICS_SECONDS)
        return None

    def _parts(self, event: Any, top_logprobs: int) -> list[Said | Ended]:
        """An event's tokens, with their log-probabilities where they were asked for, and the end if it says so.

        Raises:
            BackendError: it is no event of an answer.
            BackendUnreachableError: its engine gave the answer up.
        """
        found: list[Said | Ended] = []
        with self._understood():
            for choice in event["choices"]:
                if choice.get("token_ids") is None:
                    raise BackendError(f"{self.name} tells no token ids; vLLM 0.11 or later does")
                found += _said(choice, top_logprobs)
                reason = choice.get("finish_reason")
                if reason in {"stop", "length"}:
                    found.append(Ended(reason))
                elif reason is not None:
                    raise BackendUnreachableError(f"{self.name} gave an answer up ({reason}); try again")
        return found

    @contextmanager
    def _understood(self) -> Generator[None, None, None]:
        """What it says is read inside."""
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BackendError(
                f"{self.name} says what no vLLM server says ({type(error).__name__}: {error})"
            ) from error


def _options(sampling: Sampling, ends: frozenset[int]) -> dict[str, Any]:
    """In vLLM's words."""
    options: dict[str, Any] = {
        "stream": True,
        "return_token_ids": True,
        "max_tokens": sampling.max_new_tokens,
        "min_tokens": sampling.min_new_tokens,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop_token_ids": sorted(ends),
        "skip_special_tokens": False,
    }
    if sampling.logit_bias:
        options["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.seed is not None:
        options["seed"] = sampling.seed
    if sampling.return_tokens:
        options |= {"logprobs": sampling.top_logprobs, "return_tokens_as_token_ids": True}
    if sampling.constraint is not None:
        options["structured_outputs"] = {"grammar": sampling.constraint.lark}
    return options


def _said(choice: Mapping[str, Any], top_logprobs: int) -> list[Said]:
    ids = [int(token) for token in choice["token_ids"]]
    logprobs = choice.get("logprobs") or {}
    shares = logprobs.get("token_logprobs") or [0.0] * len(ids)
    likeliest = [_likeliest(top, top_logprobs) for top in logprobs.get("top_logprobs") or [None] * len(ids)]
    return [Said(ChosenToken(*each)) for each in zip(ids, shares, likeliest, strict=True)]


def _likeliest(top: Mapping[str, float] | None, count: int) -> tuple[tuple[int, float], ...]:
    """The first `count` of `{"token_id:5": -0.1, …}`, best first; the chosen one is there though it be none of them."""
    found = [(int(token.removeprefix(_ID)), logprob) for token, logprob in (top or {}).items()]
    return tuple(sorted(found, key=lambda one: -one[1])[:count])
