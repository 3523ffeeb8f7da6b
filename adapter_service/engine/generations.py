"""Answers under way: made by `Engine.submit`, filled by the engine's thread, and read from any other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from adapter_service.adapters.lease import Lease
from adapter_service.engine.requests import Ask
from adapter_service.errors import UnknownAdapterError

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled"]
# A reader that takes nothing for so long is gone, though its connection may not say so.
SLOWEST_READER_SECONDS = 60.0
NOBODY_READS = (
    f"nothing of this answer was taken for {SLOWEST_READER_SECONDS:.0f} s, so it was given up; ask again, and read "
    "the stream as it comes, or ask without one"
)
# Pieces that a reader may be behind before its answer waits for it: some hundred tokens are read in one go.
_UNREAD = 256


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """`logprob` is of the policy, as in `TokenTrail`; `top` has the likeliest tokens with theirs, best first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenTrail:
    """Every token that one answer's sampling chose, in order, the end token included; lists of one length.

    `logprobs` are of the policy: the natural logarithm of the share that base and adapter give the token
    at temperature 1, before any penalty, mask or cut. `sampling_logprobs` are of what the token was drawn
    from: after penalties, biases, least length, temperature, top-k, top-p and min-p; 0.0 where the best
    was taken, None where a server of others drew it and does not tell. `top` has for each the likeliest
    tokens of the policy, as many as were asked for, best first.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float | None] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    def add(
        self, token: int, logprob: float, sampling_logprob: float | None, top: tuple[tuple[int, float], ...] = ()
    ) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.sampling_logprobs.append(sampling_logprob)
        self.top.append(top)

    def since(self, place: int) -> tuple[ChosenToken, ...]:
        """The tokens from `place` on."""
        return tuple(map(ChosenToken, self.ids[place:], self.logprobs[place:], self.top[place:]))


@dataclass(frozen=True, slots=True)
class Piece:
    """What has become certain of one answer, the request's `index`-th; its last piece has the reason for its end.

    `tokens`, where they were asked for, are those chosen since the piece before; their text may come later.
    """

    text: str
    index: int = 0
    tokens: tuple[ChosenToken, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `tokens` are there when they were asked for; those behind a stop text are among them."""

    text: str
    finish_reason: FinishReason
    completion_tokens: int
    tokens: TokenTrail | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All answers to one request; `cached_tokens` of the prompt's were computed for another one before.

    `prompt_trail` has the prompt's tokens but for the first, where they were asked for.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int
    waited_seconds: float
    seconds: float
    cached_tokens: int = 0
    prompt_trail: tuple[ChosenToken, ...] = ()

    @property
    def completion_tokens(self) -> int:
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def only(self) -> Choice:
        """The answer to a request for one."""
        (choice,) = self.choices
        return choice


Event = Piece | GenerationResult | Exception


class Generation:
    """One request under way.

    Events are pieces of its answers, then the result or the error that ended it. A listener is called on
    the engine's thread and must return at once; one that `took` too little of what it was told is waited for.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.submitted_at = time.monotonic()
        self._condition = threading.Condition()
        self._events: list[Event] = []
        self._listener: Callable[[Event], None] | None = None
        self._unread: int | None = None
        self._cancelled = threading.Event()
        self._lease: Lease | None = None
        self._wake: Callable[[], None] = lambda: None

    def lease(self) -> None:
        """Keep the adapter's files until the answer has ended, whoever removes the version meanwhile.

        Raises:
            UnknownAdapterError: it was removed before.
        """
        if self.ask.adapter is None:
            return
        try:
            self._lease = Lease(self.ask.adapter.folder)
        except FileNotFoundError as error:
            raise UnknownAdapterError(
                "the version was removed a moment ago; ask for another, GET /adapter/list has them"
            ) from error

    def when_changed(self, wake: Callable[[], None]) -> None:
        """For the engine: have `wake` called when a reader cancels, or has caught up."""
        self._wake = wake

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop before the next token; the result then says `cancelled`."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._wake()

    @property
    def waits_for_reader(self) -> bool:
        """Whether so much is unread that nothing shall be added."""
        return self._unread is not None and self._unread >= _UNREAD

    def publish(self, event: Event) -> None:
        """For the engine: hand one event to whoever reads."""
        with self._condition:
            self._events.append(event)
            self._condition.notify_all()
            try:
                if self._listener is not None:
                    self._tell(self._listener, event)
            except Exception:
                # A listener that fails is one that nobody reads from; it may not take the engine with it.
                log.exception("nobody reads the answer any more", extra={"action": "listener_failed"})
                self._listener = None
                self.cancel()
            if self._lease is not None and self._ended():
                self._lease.release()

    def listen(self, listener: Callable[[Event], None], *, acknowledges: bool = False) -> None:
        """Call `listener` with every event, those that have already come first.

        One that `acknowledges` calls `took` for each event that it has dealt with.
        """
        with self._condition:
            self._listener = listener
            self._unread = 0 if acknowledges else None
            for event in self._events:
                self._tell(listener, event)

    def took(self) -> None:
        """One more event has been dealt with; from the reader."""
        with self._condition:
            if self._unread is None:
                return
            waited, self._unread = self.waits_for_reader, self._unread - 1
        if waited:
            self._wake()

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

    def _tell(self, listener: Callable[[Event], None], event: Event) -> None:
        if self._unread is not None:
            self._unread += 1
        listener(event)

    def _ended(self) -> bool:
        return bool(self._events) and not isinstance(self._events[-1], Piece)


def never_begun(generation: Generation) -> GenerationResult:
    """What a request comes to that was cancelled while it waited."""
    ask, waited = generation.ask, time.monotonic() - generation.submitted_at
    return GenerationResult((Choice("", "cancelled", 0),) * ask.count, len(ask.prompt_ids), waited, 0.0)
