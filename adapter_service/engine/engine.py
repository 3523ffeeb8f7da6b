"""The thread that owns the base: answers first, long work in between.

Nothing else touches the model, so there are no locks around it. Long work (a training loop, an
evaluation) is a function that the thread runs; it calls `Turn.pause` wherever it can be
interrupted, and every request that waits is answered there. Heavy packages are imported on the
thread, so that making an engine costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from adapter_service.adapters.artifact import verify_folder
from adapter_service.engine.generations import (
    Choice,
    FinishReason,
    Generation,
    GenerationResult,
    Piece,
    TokenTrail,
)
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.engine.text import TextStream
from adapter_service.errors import (
    AdapterServiceError,
    BusyError,
    InvalidParameterError,
    NotReadyError,
    PromptTooLongError,
)
from adapter_service.samples import Message

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.model_utils import BaseModel
    from adapter_service.rendering import Renderer

log = logging.getLogger(__name__)
T = TypeVar("T")
EngineState = Literal["loading", "ready", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What long work gets: the base, the means to render and to load adapters, and the pause.

    `pause` answers whoever waits, and raises when the engine stops. It may be called in the middle of a pass.
    """

    base: BaseModel
    renderer: Renderer
    layers: Mapping[str, LowRankLinear]
    load_adapter: Callable[[AdapterFiles], Adapter]
    pause: Callable[[], None]


class Engine:
    """Loads the base with `load_base` on a thread of its own and answers until `stop`."""

    def __init__(
        self,
        load_base: Callable[[Callable[[str], None]], BaseModel],
        *,
        queue_size: int = 32,
        max_adapters: int = 8,
    ) -> None:
        self._load_base = load_base
        self._queue_size = queue_size
        self._condition = threading.Condition()
        self._requests: deque[Generation] = deque()
        self._work: deque[tuple[Callable[[Turn], Any], Future[Any]]] = deque()
        self._adapters: Residency[Adapter] = Residency(max_adapters)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._turn: Turn | None = None
        self._error: AdapterServiceError | None = None
        self._stopping = False
        self._settled: Callable[[], None] = lambda: None
        self.note = "waiting to be started"
        self.answering = False
        self.working = False

    # Seen from other threads.

    def start(self) -> None:
        self._thread.start()

    def when_settled(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the engine's thread once the base is loaded or cannot be; set it before `start`."""
        self._settled = listener

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Take no more, end what runs at its next pause, and wait for the thread.

        A base that loads cannot be interrupted, and is not waited for.
        """
        with self._condition:
            loading = self.state == "loading"
            self._stopping = True
            if self._error is None:
                self.note = "stopped"
            self._condition.notify_all()
        if self._thread.is_alive() and not loading:
            self._thread.join(timeout_seconds)

    @property
    def state(self) -> EngineState:
        if self._error is not None:
            return "failed"
        if self._stopping:
            return "stopped"
        return "loading" if self._turn is None else "ready"

    @property
    def base(self) -> BaseModel:
        return self._ready().base

    @property
    def renderer(self) -> Renderer:
        return self._ready().renderer

    @property
    def layers(self) -> Mapping[str, LowRankLinear]:
        """The linear layers that an adapter may change, by their paths."""
        return self._ready().layers

    @property
    def waiting(self) -> int:
        """How many requests wait; one whose client went away does not count any more."""
        with self._condition:
            return sum(not generation.cancelled for generation in self._requests)

    def resident_adapters(self) -> list[str]:
        return self._adapters.keys()

    def wait_until_ready(self, timeout_seconds: float | None = None) -> None:
        """Wait while the base loads.

        Raises:
            NotReadyError: it could not be loaded, or not in time.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.state != "loading", timeout_seconds)
        self._ready()

    def prompt_ids(self, messages: Sequence[Message], *, as_it_stands: bool) -> list[int]:
        """What `messages` are to the base; `as_it_stands`, a base that knows no chat gets them as text to continue.

        Raises:
            NotReadyError: the base still loads or could not be loaded.
            InvalidParameterError: nothing is asked, or the chat template takes no such conversation.
        """
        renderer = self.renderer
        if not any(message.content.strip() for message in messages):
            raise InvalidParameterError("the prompt is empty; write what shall be answered", parameter="prompt")
        if as_it_stands and not renderer.is_chat:
            return renderer.text_ids("\n".join(message.content for message in messages))
        return renderer.prompt_ids(messages)

    def submit(self, ask: Ask) -> Generation:
        """Put a request into the queue.

        Raises:
            NotReadyError: the base still loads, could not be loaded, or the engine stops.
            UnknownAdapterError: the version was removed a moment ago.
            PromptTooLongError: prompt and answer do not fit the base's context.
            BusyError: the queue is full.
        """
        turn = self._ready()
        _check_length(ask, turn.base)
        ends = ask.sampling.extra_eos_ids | turn.renderer.end_ids
        generation = Generation(replace(ask, sampling=replace(ask.sampling, extra_eos_ids=ends)))
        with self._condition:
            self._refuse_when_stopping()
            if self.waiting >= self._queue_size:
                raise BusyError(f"{self._queue_size} requests are waiting; try again in some seconds")
            generation.lease()
            self._requests.append(generation)
            self._condition.notify_all()
        return generation

    def run(self, work: Callable[[Turn], T]) -> T:
        """Run `work` on the engine's thread and wait for what it returns or raises."""
        self.wait_until_ready()
        future: Future[T] = Future()
        with self._condition:
            self._refuse_when_stopping()
            self._work.append((work, future))
            self._condition.notify_all()
        try:
            return future.result()
        finally:
            # An error's traceback has this frame: with the future, which has the error, it would keep all that the
            # work had in hand, a training run's weights and moments, until the garbage is next looked through.
            del future

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NotReadyError("the service is stopping")

    def _ready(self) -> Turn:
        if self._error is not None:
            raise NotReadyError(f"the base could not be loaded: {self._error}") from self._error
        if self._turn is None:
            raise NotReadyError(f"the base is not ready yet ({self.note}); see /ready")
        return self._turn

    # On the engine's thread.

    def _run(self) -> None:
        try:
            turn = self._load()
        except AdapterServiceError as error:
            log.error("the base could not be loaded: %s", error, extra={"action": "base_failed"})
            self._fail(error)
            return
        except Exception as error:
            log.exception("the base could not be loaded", extra={"action": "base_failed"})
            self._fail(NotReadyError(f"internal error while loading ({type(error).__name__}); see the log"))
            return
        with self._condition:
            self._turn = turn
            self._condition.notify_all()
        self._settled()
        while self._wait_for_something():
            self._answer_waiting()
            if self._work:
                self._run_work(turn, *self._work.popleft())
        self._refuse_the_rest()

    def _load(self) -> Turn:
        from adapter_service.lora.folder import read_folder
        from adapter_service.lora.layer import install
        from adapter_service.rendering import Renderer

        base = self._load_base(self._set_note)
        layers = install(base.model, keep=base.model.get_output_embeddings())

        def read(files: AdapterFiles) -> Adapter:
            verify_folder(files.folder)  # of its bytes on this disk; once, as it comes to be resident
            return read_folder(files.folder, layers).frozen_copy(base.adapter_dtype).to(base.device)

        def load_adapter(files: AdapterFiles) -> Adapter:
            return self._adapters.get(files.key, lambda: read(files))

        self._set_note("ready")
        return Turn(base, Renderer(base.tokenizer), layers, load_adapter, self._pause)

    def _set_note(self, note: str) -> None:
        if not self._stopping:
            self.note = note
        log.info(note, extra={"action": "base_loading"})

    def _fail(self, error: AdapterServiceError) -> None:
        with self._condition:
            self._error = error
            self.note = str(error)
            self._condition.notify_all()
        self._settled()

    def _wait_for_something(self) -> bool:
        """True when there is a request or work; False when the engine shall stop."""
        with self._condition:
            self._condition.wait_for(lambda: self._requests or self._work or self._stopping)
            return not self._stopping

    def _run_work(self, turn: Turn, work: Callable[[Turn], Any], future: Future[Any]) -> None:
        self.working = True
        try:
            future.set_result(work(turn))
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            future.set_exception(error)
        finally:
            del future  # see `run`
            self.working = False

    def _pause(self) -> None:
        """What long work calls: requests are answered, and when the engine stops, the work ends here."""
        if self._requests:  # mostly there are none, and this is called at every layer
            from adapter_service.base_models.pauses import apart

            apart(self._answer_waiting, threads=self._ready().base.precision.threads)
        self._refuse_when_stopping()

    def _answer_waiting(self) -> None:
        """Answer every request that waits, one after the other."""
        while (generation := self._next_request()) is not None:
            self.answering = True
            try:
                self._answer(generation)
            except Exception as error:
                if not isinstance(error, AdapterServiceError):
                    log.exception("an answer failed", extra={"action": "generation_failed"})
                # Without the traceback, whose frames have what the answer had in hand: its cache, on a small GPU.
                generation.publish(error.with_traceback(None))
            finally:
                self.answering = False

    def _next_request(self) -> Generation | None:
        """The oldest request that is still wanted; those whose clients went away while they waited end here."""
        while True:
            with self._condition:
                if self._stopping or not self._requests:
                    return None
                generation = self._requests.popleft()
            if not generation.cancelled:
                return generation
            generation.publish(_never_begun(generation))

    def _answer(self, generation: Generation) -> None:
        from adapter_service.lora.layer import using

        ask, turn = generation.ask, self._ready()
        started = time.monotonic()
        adapter = turn.load_adapter(ask.adapter) if ask.adapter else None
        with using(adapter):
            choices = tuple(self._choice(generation, index) for index in range(ask.count))
        waited, taken = started - generation.submitted_at, time.monotonic() - started
        generation.publish(GenerationResult(choices, len(ask.prompt_ids), waited, taken))

    def _choice(self, generation: Generation, index: int) -> Choice:
        from adapter_service.engine.decoding import decode

        ask, turn = generation.ask, self._ready()
        sampling = ask.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index)
        text = TextStream(turn.base.tokenizer, sampling.stop)
        pieces: list[str] = []
        trail = TokenTrail() if sampling.return_tokens else None
        count, told, left = 0, 0, False

        def give(piece: str, reason: FinishReason | None = None) -> None:
            nonlocal told
            pieces.append(piece)
            if piece or reason:
                generation.publish(Piece(piece, index, trail.since(told) if trail else (), reason))
                told = len(trail.ids) if trail else 0

        for token in decode(turn.base, ask.prompt_ids, sampling, trail):
            if generation.cancelled or self._stopping:
                left = True
                break
            count += 1
            give(text.push(token))
            if text.stopped:
                break
        at_limit = count == sampling.max_new_tokens and not text.stopped
        reason: FinishReason = "cancelled" if left else "length" if at_limit else "stop"
        give(text.finish(), reason)
        return Choice("".join(pieces), reason, count, trail)

    def _refuse_the_rest(self) -> None:
        error = NotReadyError("the service is stopping")
        while self._requests:
            self._requests.popleft().publish(error)
        while self._work:
            self._work.popleft()[1].set_exception(error)


def _check_length(ask: Ask, base: BaseModel) -> None:
    wanted = ask.sampling.max_new_tokens
    if len(ask.prompt_ids) + wanted > base.context_tokens:
        raise PromptTooLongError(
            f"the prompt has {len(ask.prompt_ids)} tokens and {wanted} are to follow; "
            f"{base.name} takes {base.context_tokens} in all. Shorten the prompt or max_new_tokens"
        )


def _never_begun(generation: Generation) -> GenerationResult:
    """What a request comes to that was cancelled before its turn."""
    waited = time.monotonic() - generation.submitted_at
    none = tuple(Choice("", "cancelled", 0) for _ in range(generation.ask.count))
    return GenerationResult(none, len(generation.ask.prompt_ids), waited, 0.0)
