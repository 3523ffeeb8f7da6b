"""What is asked of the engine and what comes back; no torch in here.

A `Generation` is made by `Engine.submit`, filled by the engine's thread, and read from any other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapter_service.adapters.lease import Lease
from adapter_service.errors import UnknownAdapterError
from adapter_service.languages import Language
from adapter_service.settings import ServingSettings

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Greedy unless `do_sample`.

    `repetition_penalty` divides the positive and multiplies the negative logits of tokens that
    *this answer* already has (Keskar et al. 2019, arXiv:1909.05858, there with the prompt's too:
    an answer in the prompt's words is not a fault here). `top_k` 0 and `top_p` 1.0 choose among all.
    `foreign_script_penalty`, in nats, is taken off the logits of tokens that have letters of another
    writing system than `script` (ISO 15924); a `script` of None takes nothing off.
    `return_tokens` costs a sum over the vocabulary for each token, and changes none of them.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    script: str | None = None
    foreign_script_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra_eos_ids: frozenset[int] = frozenset()
    return_tokens: bool = False


def default_sampling(serving: ServingSettings, language: Language | None, *, max_new_tokens: int) -> Sampling:
    """How the service decodes an answer in `language` (None if not known) where a request says nothing: greedily."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        repetition_penalty=serving.repetition_penalty,
        script=language.script if language else None,
        foreign_script_penalty=serving.foreign_script_penalty,
    )


@dataclass(frozen=True, slots=True)
class TokenTrail:
    """Every token that one answer's sampling chose, in order, the end token included; lists of one length.

    `logprobs` are of the policy: the natural logarithm of the share that base and adapter give the token
    at temperature 1, before any penalty, mask or cut. `sampling_logprobs` are of what the token was drawn
    from: after both penalties, least length, temperature, top-k and top-p; 0.0 where the best was taken.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)

    def add(self, token: int, logprob: float, sampling_logprob: float) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.sampling_logprobs.append(sampling_logprob)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An immutable version's folder; `key` names its content and is what the engine remembers it by."""

    key: str
    folder: Path


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """`tokens` are there when they were asked for; those behind a stop text are among them."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    waited_seconds: float
    seconds: float
    tokens: TokenTrail | None = None


Event = str | GenerationResult | Exception


class Generation:
    """One answer under way.

    Events are pieces of text, then the result or the error that ended it. A listener is called on
    the engine's thread and must return at once.
    """

    def __init__(self, prompt_ids: list[int], sampling: Sampling, adapter: AdapterFiles | None) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.adapter = adapter
        self.submitted_at = time.monotonic()
        self._condition = threading.Condition()
        self._events: list[Event] = []
        self._listener: Callable[[Event], None] | None = None
        self._cancelled = threading.Event()
        self._lease: Lease | None = None

    def lease(self) -> None:
        """Keep the adapter's files until the answer has ended, whoever removes the version meanwhile.

        Raises:
            UnknownAdapterError: it was removed before.
        """
        if self.adapter is None:
            return
        try:
            self._lease = Lease(self.adapter.folder)
        except FileNotFoundError as error:
            raise UnknownAdapterError(
                "the version was removed a moment ago; ask for another, GET /adapter/list has them"
            ) from error

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop before the next token; the result then says `cancelled`."""
        self._cancelled.set()

    def publish(self, event: Event) -> None:
        """For the engine: hand one event to whoever reads."""
        with self._condition:
            self._events.append(event)
            self._condition.notify_all()
            try:
                if self._listener is not None:
                    self._listener(event)
            except Exception:
                # A listener that fails is one that nobody reads from; it may not take the engine with it.
                log.exception("nobody reads the answer any more", extra={"action": "listener_failed"})
                self._listener = None
                self.cancel()
            if self._lease is not None and self._ended():
                self._lease.release()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event, those that have already come first."""
        with self._condition:
            self._listener = listener
            for event in self._events:
                listener(event)

    def result(self, timeout_seconds: float | None = None) -> GenerationResult:
        """Wait for the end.

        Raises:
            TimeoutError: it took longer; the generation goes on.
            Exception: whatever ended the generation.
        """
        with self._condition:
            if not self._condition.wait_for(self._ended, timeout_seconds):
                raise TimeoutError(f"no answer within {timeout_seconds} s")
            last = self._events[-1]
        if isinstance(last, Exception):
            raise last
        assert isinstance(last, GenerationResult)  # noqa: S101 - _ended says so
        return last

    def _ended(self) -> bool:
        return bool(self._events) and not isinstance(self._events[-1], str)
