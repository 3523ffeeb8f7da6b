"""The thread that owns the base: requests first, long work in between.

Nothing else touches the model, so there are no locks around it. Long work (a training loop, an
evaluation) is a function that the thread runs; it calls `Turn.pause` wherever it can be
interrupted, down to every layer of a pass, and the scheduler has its turns there. Heavy packages are
imported on the thread, so that making an engine costs nothing.
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
from adapter_service.engine.generations import Generation, never_begun
from adapter_service.engine.measures import Measures, Reading
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.engine.resident_adapters import ResidentAdapters
from adapter_service.engine.share import TrainingShare
from adapter_service.engine.waiting import WaitingLine
from adapter_service.errors import (
    AdapterServiceError,
    BusyError,
    InvalidParameterError,
    NotReadyError,
    PromptTooLongError,
)
from adapter_service.samples import Message
from adapter_service.settings import ServingSettings

if TYPE_CHECKING:
    from adapter_service.engine.batch import Batch
    from adapter_service.engine.scheduler import Scheduler
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel
    from adapter_service.rendering import Renderer

log = logging.getLogger(__name__)
T = TypeVar("T")
EngineState = Literal["loading", "ready", "failed", "stopped"]
# Whoever wants something wakes the thread; this is for what only time brings: a reader that is never going to read.
_PARKED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What long work gets: the base, the means to render and to read adapters, and the pause.

    `new_batch` makes one of so many rows, for the work alone. `pause` returns when the work may go on, and
    raises when the engine stops; it may be called in the middle of a pass.
    """

    base: BaseModel
    renderer: Renderer
    layers: Mapping[str, LowRankLinear]
    read_adapter: Callable[[AdapterFiles], Adapter]
    new_batch: Callable[[int], Batch]
    pause: Callable[[], None]


class Engine:
    """Loads the base with `load_base` on a thread of its own and answers until `stop`."""

    def __init__(
        self, load_base: Callable[[Callable[[str], None]], BaseModel], settings: ServingSettings | None = None
    ) -> None:
        self._load_base = load_base
        self._settings = settings or ServingSettings()
        self._condition = threading.Condition()
        self._woken = False
        self._line: WaitingLine[Generation] = WaitingLine(self._settings.queue_size)
        self._orders: deque[Callable[[ResidentAdapters], None]] = deque()
        self._work: deque[tuple[Callable[[Turn], Any], Future[Any]]] = deque()
        self._residency: Residency[ResidentAdapter] = Residency(
            self._settings.max_adapters, self._settings.max_adapter_bytes
        )
        self._prefixes = PrefixCache(CHUNK_TOKENS, self._settings.prefix_cache_bytes)
        self._share = TrainingShare(self._settings.train_share)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._turn: Turn | None = None
        self._scheduler: Scheduler | None = None
        self._adapters: ResidentAdapters | None = None
        self._error: AdapterServiceError | None = None
        self._ends_at: float | None = None
        self._resumed_at = 0.0
        self._settled: Callable[[], None] = lambda: None
        self.measures = Measures()
        self.measures.watch(self._reading)
        self.is_batch_invariant: bool | None = None
        """Whether equal seeds give equal answers whatever else is answered; None until the base is loaded."""
        self.note = "waiting to be started"
        self.working = False

    # Seen from other threads.

    def start(self) -> None:
        self._thread.start()

    def when_settled(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the engine's thread once the base is loaded or cannot be; set it before `start`."""
        self._settled = listener

    def stop(self, timeout_seconds: float = 30.0, *, drain_seconds: float = 0.0) -> None:
        """Take no more, let those under way have `drain_seconds` to end by themselves, and wait for the thread.

        Long work ends at its next pause. A base that loads cannot be interrupted, and is not waited for.
        """
        with self._condition:
            loading = self.state == "loading"
            ends_at = time.monotonic() + drain_seconds
            self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)
            if self._error is None:
                self.note = "stopped"
            self._wake()
        if self._thread.is_alive() and not loading:
            self._thread.join(timeout_seconds)

    @property
    def state(self) -> EngineState:
        if self._error is not None:
            return "failed"
        if self._ends_at is not None:
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
            return sum(not generation.cancelled for generation in self._line)

    @property
    def active(self) -> int:
        """How many answers grow."""
        return self._scheduler.active if self._scheduler else 0

    @property
    def training_share(self) -> float:
        """Of the time in which the thread was busy lately."""
        return self._share.recent

    def resident_adapters(self) -> list[str]:
        return self._residency.keys()

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
            InvalidParameterError: more answers at once than may grow.
            UnknownAdapterError: the version was removed a moment ago.
            PromptTooLongError: prompt and answer do not fit the base's context.
            BusyError: the queue is full.
        """
        turn, sampling = self._ready(), ask.sampling
        self._check(ask, turn.base)
        ends = sampling.extra_eos_ids | turn.renderer.end_ids
        generation = Generation(replace(ask, sampling=replace(sampling, extra_eos_ids=ends)))
        generation.when_changed(self._wake)
        if sampling.script is not None and sampling.foreign_script_penalty:
            turn.base.foreign_to(sampling.script)  # the first time it takes a second, which is better spent here
        self._drop_those_who_left()
        with self._condition:
            self._refuse_when_stopping()
            if len(self._line) >= self._settings.queue_size:
                raise BusyError(f"{self._settings.queue_size} requests are waiting; try again in some seconds")
            generation.lease()
            self._line.add(generation)
            self._wake()
        return generation

    def _drop_those_who_left(self) -> None:
        """A client that went away keeps nobody out."""
        with self._condition:
            left = self._line.remove(lambda waiting: waiting.cancelled)
        for generation in left:
            generation.publish(never_begun(generation))

    def run(self, work: Callable[[Turn], T]) -> T:
        """Run `work` on the engine's thread and wait for what it returns or raises."""
        self.wait_until_ready()
        future: Future[T] = Future()
        with self._condition:
            self._refuse_when_stopping()
            self._work.append((work, future))
            self._wake()
        try:
            return future.result()
        finally:
            # An error's traceback has this frame: with the future, which has the error, it would keep all that the
            # work had in hand, a training run's weights and moments, until the garbage is next looked through.
            del future

    def pin(self, files: AdapterFiles) -> None:
        """Make a version resident, and keep it so until `unpin`.

        Raises:
            AdapterServiceError: as many are pinned as may be, or why it cannot be read.
        """
        future: Future[None] = Future()

        def settled(error: Exception | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._order(lambda adapters: adapters.pin(files, settled))
        future.result()

    def unpin(self, key: str) -> bool:
        """Let a version go when its place is wanted; False when it was not pinned."""
        future: Future[bool] = Future()
        self._order(lambda adapters: future.set_result(adapters.unpin(key)))
        return future.result()

    def _reading(self) -> Reading:
        """For whoever scrapes; numbers that are read while they change may be a moment apart."""
        scheduler, residency, share = self._scheduler, self._residency, self._share
        with self._condition:
            waiting = [generation for generation in self._line if not generation.cancelled]
        return Reading(
            running=self.active,
            waiting=len(waiting),
            kv_cache_share=self.active / self._settings.max_active_requests,
            prefix_queried_tokens=self._prefixes.queried_tokens,
            prefix_found_tokens=self._prefixes.found_tokens,
            max_adapters=residency.max_adapters,
            resident_adapters=len(residency),
            resident_bytes=residency.size_bytes,
            adapter_loads=residency.loads,
            adapter_evictions=residency.evictions,
            running_adapters=scheduler.adapters if scheduler else (),
            waiting_adapters=tuple({one.ask.adapter.key for one in waiting if one.ask.adapter}),
            served_seconds=share.served_seconds,
            trained_seconds=share.trained_seconds,
            recent_train_share=share.recent,
        )

    def _order(self, order: Callable[[ResidentAdapters], None]) -> None:
        """Have the engine's thread do something to its adapters."""
        self._ready()
        with self._condition:
            self._refuse_when_stopping()
            self._orders.append(order)
            self._wake()

    def _refuse_when_stopping(self) -> None:
        if self._ends_at is not None:
            raise NotReadyError("the service is stopping")

    def _ready(self) -> Turn:
        if self._error is not None:
            raise NotReadyError(f"the base could not be loaded: {self._error}") from self._error
        if self._turn is None:
            raise NotReadyError(f"the base is not ready yet ({self.note}); see /ready")
        return self._turn

    def _check(self, ask: Ask, base: BaseModel) -> None:
        most, wanted = self._settings.max_active_requests, ask.sampling.max_new_tokens
        if not 1 <= ask.count <= most:
            raise InvalidParameterError(
                f"'n' is {ask.count}; this service lets {most} answers grow at a time (serving.max_active_requests): "
                f"ask for 1 to {most}",
                parameter="n",
            )
        if len(ask.prompt_ids) + wanted > base.context_tokens:
            raise PromptTooLongError(
                f"the prompt has {len(ask.prompt_ids)} tokens and {wanted} are to follow; "
                f"{base.name} takes {base.context_tokens} in all. Shorten the prompt or max_new_tokens"
            )

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
        while not self._is_over():
            if not self._serve() and not self._run_next_work(turn):
                self._park()
        self._refuse_the_rest()

    def _set_note(self, note: str) -> None:
        if self._ends_at is None:
            self.note = note
        log.info(note, extra={"action": "base_loading"})

    def _fail(self, error: AdapterServiceError) -> None:
        with self._condition:
            self._error = error
            self.note = str(error)
            self._condition.notify_all()
        self._settled()

    def _load(self) -> Turn:
        from adapter_service.engine.probe import choose_batch
        from adapter_service.engine.scheduler import Scheduler
        from adapter_service.lora.folder import read_folder
        from adapter_service.lora.layer import install
        from adapter_service.lora.resident import ResidentAdapter
        from adapter_service.rendering import Renderer

        base = self._load_base(self._set_note)
        layers = install(base.model, keep=base.model.get_output_embeddings())
        renderer = Renderer(base.tokenizer)
        most = self._settings.max_active_requests
        chosen = choose_batch(base, renderer.template_id, rows=most, prefixes=self._prefixes)
        self._set_note(chosen.note)

        def read(files: AdapterFiles) -> Adapter:
            verify_folder(files.folder)  # of its bytes on this disk
            return read_folder(files.folder, layers)

        def read_to_serve(files: AdapterFiles) -> ResidentAdapter:
            return ResidentAdapter.of(files.key, read(files), base.adapter_dtype, base.device)

        self._adapters = ResidentAdapters(read_to_serve, self._residency, self.measures, self._wake)
        self._scheduler = Scheduler(
            base, chosen.batch, self._adapters, self._line, self.measures, lock=self._condition, max_active=most
        )
        self.is_batch_invariant = chosen.is_invariant
        self._set_note("ready")
        return Turn(base, renderer, layers, read, chosen.new_batch, self._pause)

    def _serve(self) -> bool:
        """What others ordered, then one turn for the requests; False when there was nothing to do."""
        assert self._scheduler is not None and self._adapters is not None  # noqa: S101, PT018 - made with the base
        started = time.monotonic()
        while self._orders:
            self._orders.popleft()(self._adapters)
        try:
            busy = self._scheduler.turn()
        except Exception as error:
            log.exception("the scheduler failed", extra={"action": "scheduler_failed"})
            self._scheduler.fail_all(error.with_traceback(None))
            return True
        if busy:
            self._share.served(time.monotonic() - started)
        return busy

    def _pause(self) -> None:
        """What long work calls: those who wait have their turns, and when the engine stops, the work ends here."""
        self._share.trained(time.monotonic() - self._resumed_at)
        self._refuse_when_stopping()
        if self._is_wanted() and not self._share.training_is_due():
            from adapter_service.base_models.pauses import apart

            apart(self._serve_until_training_is_due, threads=self._ready().base.precision.threads)
        self._resumed_at = time.monotonic()

    def _serve_until_training_is_due(self) -> None:
        while self._is_wanted() and not self._share.training_is_due() and self._serve():
            self._refuse_when_stopping()

    def _run_next_work(self, turn: Turn) -> bool:
        """False when there is none."""
        if not self._work or self._ends_at is not None:
            return False
        work, future = self._work.popleft()
        self.working = True
        self._share.training_begins()
        self._resumed_at = time.monotonic()
        try:
            future.set_result(work(turn))
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            future.set_exception(error)
        finally:
            del future  # see `run`
            self.working = False
        return True

    def _is_wanted(self) -> bool:
        """Whether a turn has anything to do; asked at every layer, so that it takes no lock."""
        scheduler, adapters = self._scheduler, self._adapters
        assert scheduler is not None and adapters is not None  # noqa: S101, PT018 - made with the base
        return bool(self._line or scheduler.active or self._orders or adapters.arrived)

    def _park(self) -> None:
        """Wait until somebody wants something, or a reader has caught up."""
        with self._condition:
            if not self._woken:
                left = _PARKED_SECONDS if self._ends_at is None else self._ends_at - time.monotonic()
                self._condition.wait(min(max(left, 0.0), _PARKED_SECONDS))
            self._woken = False

    def _wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def _is_over(self) -> bool:
        """Whether the engine stops, and those under way have ended or had their time."""
        if self._ends_at is None:
            return False
        return time.monotonic() >= self._ends_at or not (self._line or self.active)

    def _refuse_the_rest(self) -> None:
        assert self._scheduler is not None and self._adapters is not None  # noqa: S101, PT018 - made with the base
        error = NotReadyError("the service is stopping")
        self._scheduler.end_all(error)
        while self._orders:
            self._orders.popleft()(self._adapters)
        self._adapters.close(error)
        with self._condition:
            work = list(self._work)
            self._work.clear()
        for _, future in work:
            future.set_exception(error)
