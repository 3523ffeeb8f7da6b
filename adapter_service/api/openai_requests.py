"""What every request of OpenAI's generation routes is while it is under way, and what its answers have in common."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter_service import __version__
from adapter_service.api.model_choice import ChosenModel
from adapter_service.api.schemas.openai import CompletionUsage, PromptTokensDetails
from adapter_service.api.services import Services
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import ChosenToken, Generation, GenerationResult
from adapter_service.engine.requests import Ask
from adapter_service.errors import AdapterServiceError, NotReadyError


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What stands in an answer and in every event of a stream; `created` is Unix time in seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, prefix: str, model: ChosenModel, services: Services) -> AnswerHead:
        engine = services.engine
        described = f"{engine.base.identity} {engine.renderer.template_id} {__version__}"
        fingerprint = hashlib.sha256(described.encode()).hexdigest()[:10]
        return cls(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), model.id, f"fp_{fingerprint}")

    def fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }

    def chunk(self, kind: str, choices: Sequence[Mapping[str, Any]], **usage: Any) -> dict[str, Any]:
        """The data of one event of a stream."""
        return {**self.fields(), "object": kind, "choices": list(choices), **usage}


def submit_all(engine: Engine, asks: Sequence[Ask]) -> tuple[Generation, ...]:
    """Put all into the engine's queue, or none."""
    generations: list[Generation] = []
    try:
        for ask in asks:
            generations.append(engine.submit(ask))  # noqa: PERF401 - those before the one that is refused are cancelled
    except AdapterServiceError:
        for generation in generations:
            generation.cancel()
        raise
    return tuple(generations)


def usage_of(results: Sequence[GenerationResult]) -> CompletionUsage:
    """A prompt counts once, however many answers it has."""
    prompt = sum(result.prompt_tokens for result in results)
    completion = sum(result.completion_tokens for result in results)
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(result.cached_tokens for result in results)),
    )


def finish_word(reason: str) -> Any:
    """The reason as that API has it.

    Raises:
        NotReadyError: the answer was cut off, which it has no word for: whoever reads this did not cancel it, and one
            that nobody read has an error of its own, so that the service stops.
    """
    if reason == "cancelled":
        raise NotReadyError("the service is stopping")
    return reason


def without_end(tokens: Sequence[ChosenToken], ends: frozenset[int]) -> list[ChosenToken]:
    """`tokens` but for the one that ended the answer, which is no part of it."""
    return [token for token in tokens if token.id not in ends]


def ends_of(engine: Engine, ask: Ask) -> frozenset[int]:
    """Every token that ends an answer to `ask`."""
    return ask.sampling.extra_eos_ids | engine.renderer.end_ids | engine.base.eos_ids()
