"""Whose turn it is: requests wait in a line, are let in, read their prompts, and grow by one token at each step.

One turn lets in whoever there is room for, takes one chunk of one prompt, and decodes one token for every answer
under way. Nothing in it waits, and a fault in one request ends that request alone. All on the engine's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from adapter_service.base_models.memory_faults import says_no_memory
from adapter_service.engine.answer import Answer
from adapter_service.engine.generations import (
    NOBODY_READS,
    SLOWEST_READER_SECONDS,
    Generation,
    GenerationResult,
    never_begun,
)
from adapter_service.engine.leaving import drop_cancelled
from adapter_service.engine.measures import Measures
from adapter_service.engine.resident_adapters import ResidentAdapters
from adapter_service.engine.sequence import Sequence
from adapter_service.engine.waiting import WaitingLine
from adapter_service.errors import AdapterServiceError, NonFiniteLogitsError, OverloadedError, SlowReaderError

if TYPE_CHECKING:
    from adapter_service.engine.batch import Batch
    from adapter_service.model_utils import BaseModel

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(eq=False)
class _Request:
    """A generation that was let in. `sequence` reads its prompt; the further answers branch off from it.

    `in_batch` are those that the batch has something of.
    """

    generation: Generation
    sequence: Sequence
    admitted_at: float
    in_batch: list[Sequence] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    paused_at: float | None = None

    @property
    def growing(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.choice is None]


class Scheduler:
    """Requests to one base; `max_active` answers grow at a time."""

    def __init__(
        self,
        base: BaseModel,
        batch: Batch,
        adapters: ResidentAdapters,
        line: WaitingLine[Generation],
        measures: Measures,
        *,
        lock: AbstractContextManager[Any],
        max_active: int,
    ) -> None:
        """`lock` is held around what is done to the line: others add to it."""
        self._base = base
        self._batch = batch
        self._adapters = adapters
        self._line = line
        self._measures = measures
        self._lock = lock
        self._max_active = max_active
        self._requests: list[_Request] = []  # in the order in which they were let in
        self._grown_by: dict[Sequence, tuple[_Request, Answer]] = {}

    @property
    def active(self) -> int:
        """Answers that grow, or will when their prompt is read."""
        return sum(request.generation.ask.count for request in self._requests)

    @property
    def running(self) -> int:
        """Requests, of which each may have several answers."""
        return len(self._requests)

    @property
    def cache_share(self) -> float:
        """As `Batch.cache_share`."""
        return self._batch.cache_share

    @property
    def adapters(self) -> tuple[str, ...]:
        """Keys of the versions that answers are being written with."""
        used = (request.sequence.adapter for request in tuple(self._requests))
        return tuple({adapter.key for adapter in used if adapter is not None})

    @torch.inference_mode()
    def turn(self) -> bool:
        """One turn; False when there was nothing to do for anybody."""
        self._attend_to_readers()
        self._adapters.take_in()
        entered = self._let_in()
        read = self._read_one_chunk()
        return self._step() or read or entered

    @torch.inference_mode()
    def fail_all(self, error: Exception) -> None:
        """End every answer with `error`: the scheduler itself has failed, and nobody shall wait for ever."""
        for request in list(self._requests):
            self._fail(request, error)

    @torch.inference_mode()
    def end_all(self, error: AdapterServiceError) -> None:
        """Refuse whoever waits, and end every answer where it is."""
        with self._lock:
            waiting = self._line.remove(lambda _: True)
        for generation in waiting:
            generation.publish(error)
        for request in list(self._requests):
            self._cut_short(request)

    # Who is let in.

    def _let_in(self) -> bool:
        entered = False
        while (generation := self._next()) is not None:
            self._enter(generation)
            entered = True
        with self._lock:
            waiting = list(self._line)
        self._adapters.expect(generation.ask.adapter for generation in waiting if generation.ask.adapter)
        return entered

    def _next(self) -> Generation | None:
        with self._lock:
            return self._line.next(self._can_enter)

    def _can_enter(self, generation: Generation) -> bool:
        files, count = generation.ask.adapter, generation.ask.count
        return self.active + count <= self._max_active and (files is None or self._adapters.has_settled(files))

    def _enter(self, generation: Generation) -> None:
        ask = generation.ask
        sequence = Sequence(
            ask.prompt_ids,
            len(ask.prompt_ids) + ask.sampling.max_new_tokens,
            scale=ask.scale,
            prompt_logprobs=ask.prompt_logprobs,
        )
        request = _Request(generation, sequence, time.monotonic())
        self._requests.append(request)
        self._measures.admitted(request.admitted_at - generation.submitted_at)
        self._guarded(request, lambda: self._prepare(request))

    def _prepare(self, request: _Request) -> None:
        files = request.generation.ask.adapter
        request.sequence.adapter = self._adapters.acquire(files) if files else None
        request.in_batch.append(request.sequence)
        self._batch.add(request.sequence)

    def _attend_to_readers(self) -> None:
        """End answers that nobody wants any more; those whose reader is behind wait for it, by themselves."""
        now = time.monotonic()
        drop_cancelled(self._line, self._lock, self._measures)
        for request in list(self._requests):
            behind = request.generation.waits_for_reader
            if request.generation.cancelled:
                self._cut_short(request)
            elif behind and request.paused_at is not None and now - request.paused_at > SLOWEST_READER_SECONDS:
                self._fail(request, SlowReaderError(NOBODY_READS))
            elif behind and request.paused_at is None:
                request.paused_at = now
                for answer in request.growing:
                    self._batch.leave(answer.sequence)
            elif not behind and request.paused_at is not None:
                request.paused_at = None
                self._go_on_with(request)

    def _go_on_with(self, request: _Request) -> None:
        def join() -> None:
            for answer in request.growing:
                self._batch.join(answer.sequence)

        self._guarded(request, join)

    # What they get.

    def _read_one_chunk(self) -> bool:
        request = next((request for request in self._requests if not request.answers), None)
        if request is None:
            return False
        logits = self._guarded(request, lambda: self._batch.read(request.sequence), is_repeatable=True)
        if logits is not None and not request.generation.cancelled:
            self._guarded(request, lambda: self._begin_answers(request, logits))
        return True

    def _begin_answers(self, request: _Request, logits: torch.Tensor) -> None:
        ask, publish = request.generation.ask, request.generation.publish
        for _ in range(1, ask.count):
            request.in_batch.append(self._batch.fork(request.sequence))
        for index, sequence in enumerate(request.in_batch):
            answer = Answer(self._base, sequence, ask.sampling_of(index), index, publish)
            request.answers.append(answer)
            self._grown_by[sequence] = request, answer
        self._measures.prompt_read(len(ask.prompt_ids))
        self._measures.first_token(time.monotonic() - request.generation.submitted_at)
        for answer in list(request.answers):
            if self._take(answer, logits):
                self._batch.join(answer.sequence)
            else:
                self._ended(request, answer)

    def _step(self) -> bool:
        if not self._batch.rows:
            return False
        try:
            grown = self._batch.step()
        except Exception as error:
            if not says_no_memory(error):
                log.exception("a step failed", extra={"action": "step_failed"})
            fault = error.with_traceback(None)
        else:
            for sequence, logits in grown:
                self._grow(sequence, logits)
            return True
        if says_no_memory(fault):
            self._shed_newest()
        else:
            for request in [request for request in self._requests if request.growing and request.paused_at is None]:
                self._fail(request, fault)
        return True

    def _grow(self, sequence: Sequence, logits: torch.Tensor) -> None:
        if sequence not in self._grown_by:  # a fault in another answer to its request has just ended it
            return
        request, answer = self._grown_by[sequence]
        goes_on = self._guarded(request, lambda: self._take(answer, logits))
        now = time.monotonic()
        self._measures.token(now - answer.token_at)
        answer.token_at = now
        if goes_on is False:
            self._ended(request, answer)

    def _take(self, answer: Answer, logits: torch.Tensor) -> bool:
        """As `Answer.take`; the token that ends an answer is none of its own."""
        before = len(answer.tokens)
        goes_on = answer.take(logits)
        self._measures.generated(len(answer.tokens) - before)
        return goes_on

    # How it ends.

    def _ended(self, request: _Request, answer: Answer) -> None:
        del self._grown_by[answer.sequence]
        request.in_batch.remove(answer.sequence)
        self._batch.remove(answer.sequence)
        if not request.growing:
            self._finish(request)

    def _cut_short(self, request: _Request) -> None:
        # What nothing has been chosen from may be no numbers.
        self._remove(request, poisoned=not request.answers)
        for answer in request.growing:
            answer.end("cancelled")
        self._finish(request)

    def _finish(self, request: _Request) -> None:
        self._forget(request)
        result = _result(request)
        self._measures.finished(result)
        request.generation.publish(result)

    def _fail(self, request: _Request, error: Exception) -> None:
        self._remove(request, poisoned=True)
        self._forget(request)
        self._measures.failed(aborted=isinstance(error, SlowReaderError))
        request.generation.publish(error)

    def _remove(self, request: _Request, *, poisoned: bool) -> None:
        for sequence in request.in_batch:
            self._grown_by.pop(sequence, None)
            self._batch.remove(sequence, poisoned=poisoned)
        request.in_batch.clear()

    def _forget(self, request: _Request) -> None:
        self._requests.remove(request)
        if request.sequence.adapter is not None:
            self._adapters.release(request.sequence.adapter.key)

    def _guarded(self, request: _Request, action: Callable[[], T], *, is_repeatable: bool = False) -> T | None:
        """What `action` returns; a fault ends the request. Out of memory, what is repeatable ends the newest one."""
        try:
            return action()
        except Exception as error:
            if not isinstance(error, AdapterServiceError) and not says_no_memory(error):
                log.exception("an answer failed", extra={"action": "generation_failed"})
            # Without the traceback, whose frames have what the answer had in hand.
            fault = error.with_traceback(None)
        if says_no_memory(fault):
            self._shed_newest() if is_repeatable else self._shed(request)
        else:
            if isinstance(fault, NonFiniteLogitsError):
                self._measures.corrupted()
            self._fail(request, fault)
        return None

    def _shed_newest(self) -> None:
        self._shed(self._requests[-1])

    def _shed(self, request: _Request) -> None:
        log.warning("no memory: the newest request is refused", extra={"action": "request_shed"})
        self._fail(request, OverloadedError("no memory is left for this request beside the others; try again later"))
        self._batch.free_memory()


def _result(request: _Request) -> GenerationResult:
    generation, now = request.generation, time.monotonic()
    if not request.answers:
        return never_begun(generation)
    return GenerationResult(
        choices=tuple(answer.choice for answer in request.answers if answer.choice is not None),
        prompt_tokens=len(generation.ask.prompt_ids),
        waited_seconds=request.admitted_at - generation.submitted_at,
        seconds=now - request.admitted_at,
        cached_tokens=request.sequence.cached_tokens,
        prompt_trail=tuple(request.sequence.prompt_trail),
    )
