"""The thread that owns the base: requests first, long work in between.

Where servers of others answer (`Backend`), requests go to them, and the thread has the long work alone.

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
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from adapter_service.engine.backend import Backend
from adapter_service.engine.generations import Generation
from adapter_service.engine.leaving import drop_cancelled
from adapter_service.engine.measures import Measures, Reading
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.engine.share import TrainingShare
from adapter_service.engine.turn import Turn
from adapter_service.engine.waiting import WaitingLine
from adapter_service.errors import (
    AdapterServiceError,
    BackendUnreachableError,
    BusyError,
    NotReadyError,
)
from adapter_service.samples import Message
from adapter_service.settings import ServingSettings

if TYPE_CHECKING:
    import torch

    from adapter_service.engine.kernels import Kernel
    from adapter_service.engine.resident_adapters import ResidentAdapters, Settled
    from adapter_service.engine.serving import Order, Serving
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel
    from adapter_service.rendering import Renderer

log = logging.getLogger(__name__)
T = TypeVar("T")
EngineState = Literal["loading", "ready", "failed", "stopped"]
# Whoever wants something wakes the thread; this is for what only time brings: a reader that is never going to read.
_PARKED_SECONDS = 5.0
# Texts that go through the base at once, between which whoever is answered has a turn; and how much of each is read.
_EMBEDDED_TOGETHER, _EMBEDDED_CHARACTERS = 16, 500


class Engine:
    """Loads the base with `load_base` on a thread of its own and answers until `stop`, or has `backend` answer."""

    def __init__(
        self,
        load_base: Callable[[Callable[[str], None]], BaseModel],
        settings: ServingSettings | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._load_base = load_base
        self.backend = backend
        self._settings = settings = settings or ServingSettings()
        self._condition = threading.Condition()
        self._woken = False
        self._line: WaitingLine[Generation] = WaitingLine()
        self._work: deque[tuple[Callable[[Turn], Any], Future[Any]]] = deque()
        self._residency: Residency[ResidentAdapter] = Residency(settings.max_adapters, settings.max_adapter_bytes)
        self._prefixes = PrefixCache(CHUNK_TOKENS, settings.prefix_cache_bytes)
        self._share = TrainingShare(settings.train_share)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._serving: Serving | None = None
        self._error: AdapterServiceError | None = None
        self._ends_at: float | None = None
        self._since = 0.0  # what follows this moment has not been told to the share yet
        self._settled: Callable[[], None] = lambda: None
        self.measures = Measures()
        self.measures.watch(self._reading)
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
        if self.backend is not None:
            self.backend.stop(drain_seconds=drain_seconds)
        if self._thread.is_alive() and not loading:
            self._thread.join(timeout_seconds)

    @property
    def state(self) -> EngineState:
        if self._error is not None:
            return "failed"
        if self._ends_at is not None:
            return "stopped"
        return "loading" if self._serving is None else "ready"

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
        if self.backend is not None:
            return self.backend.waiting
        with self._condition:
            return sum(not generation.cancelled for generation in self._line)

    @property
    def active(self) -> int:
        """How many answers grow."""
        if self.backend is not None:
            return self.backend.active
        return self._serving.scheduler.active if self._serving else 0

    @property
    def is_batch_invariant(self) -> bool | None:
        """Whether equal seeds give equal answers whatever else is answered; None until that is known."""
        if self.backend is not None:
            return None
        return self._serving.is_batch_invariant if self._serving else None

    @property
    def kernel(self) -> Kernel | None:
        """How steps are made; None until the base is loaded."""
        return self._serving.kernel if self._serving else None

    @property
    def training_share(self) -> float:
        """Of the time in which the thread was busy lately."""
        return self._share.recent

    def resident_adapters(self) -> list[str]:
        return self.backend.resident_adapters() if self.backend is not None else self._residency.keys()

    def wait_until_ready(self, timeout_seconds: float | None = None) -> None:
        """Wait while the base loads.

        Raises:
            NotReadyError: it could not be loaded, or not in time.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.state != "loading", timeout_seconds)
        self._ready()

    def check_answering(self) -> None:
        """Whether a request would be answered now.

        Raises:
            NotReadyError: the base still loads or could not be loaded.
            BackendUnreachableError: the servers that answer do not.
        """
        self._ready()
        if self.backend is not None and (fault := self.backend.fault) is not None:
            raise BackendUnreachableError(fault)

    def prompt_ids(self, messages: Sequence[Message], *, as_it_stands: bool) -> list[int]:
        """What `messages` are to the base; `as_it_stands`, a base that knows no chat gets them as text to continue.

        Raises:
            NotReadyError: the base still loads or could not be loaded.
            InvalidParameterError: nothing is asked, or the chat template takes no such conversation.
        """
        return self._ready().prompt_ids(messages, as_it_stands=as_it_stands)

    def submit(self, ask: Ask) -> Generation:
        """Put a request into the queue.

        Raises:
            NotReadyError: the base still loads, could not be loaded, or the engine stops.
            InvalidParameterError: more answers at once than may grow, or a token that the base has no row for.
            UnknownAdapterError: the version was removed a moment ago.
            PromptTooLongError: prompt and answer do not fit the base's context.
            BusyError: the queue is full.
            BackendUnreachableError: the servers that answer do not.
        """
        serving, sampling = self._ready(), ask.sampling
        serving.check(ask)
        ends = sampling.extra_eos_ids | serving.renderer.end_ids
        generation = Generation(replace(ask, sampling=replace(sampling, extra_eos_ids=ends)))
        if self.backend is not None:
            self.backend.check(ask)
            self.backend.submit(generation)
            return generation
        generation.when_changed(self._wake)
        if sampling.script is not None and sampling.foreign_script_penalty:
            serving.base.foreign_to(sampling.script)  # the first time it takes a second, which is better spent here
        drop_cancelled(self._line, self._condition, self.measures)
        with self._condition:
            self._refuse_when_stopping()
            if len(self._line) >= self._settings.queue_size:
                raise BusyError(f"{self._settings.queue_size} requests are waiting; try again in some seconds")
            generation.lease()
            self._line.add(generation)
            self._wake()
        return generation

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

    def embeddings(self, texts: Sequence[str]) -> torch.Tensor:
        """What the base alone makes of one or more texts (texts, hidden); in pauses, where long work is under way.

        Raises:
            NotReadyError: the base still loads, could not be loaded, or the engine stops.
        """
        import torch

        renderer = self._ready().renderer
        ids = [renderer.text_ids(text[:_EMBEDDED_CHARACTERS]) for text in texts]
        parts = [ids[start : start + _EMBEDDED_TOGETHER] for start in range(0, len(ids), _EMBEDDED_TOGETHER)]
        return torch.cat(list(map(self._embedded, parts)))

    def load(self, files: AdapterFiles) -> None:
        """Before a version goes live: have servers of others load it, so that no request waits for that.

        Here, requests of other adapters go on while one is read, and there is nothing to do.

        Raises:
            AdapterServiceError: why it cannot be loaded there, or not now.
        """
        if self.backend is not None:
            self.backend.load(files)

    def pin(self, files: AdapterFiles) -> None:
        """Make a version resident, and keep it so until `unpin`.

        Raises:
            AdapterServiceError: as many are pinned as may be, or why it cannot be read.
        """
        if self.backend is not None:
            self._ready()
            self.backend.pin(files)
            return
        self._order(lambda adapters, settled: adapters.pin(files, settled))

    def unpin(self, key: str) -> None:
        """Let a version go when its place is wanted; nothing where it is not pinned."""
        if self.backend is not None:
            self.backend.unpin(key)
            return

        def unpin(adapters: ResidentAdapters, settled: Settled) -> None:
            adapters.unpin(key)
            settled(None)

        self._order(unpin)

    def _reading(self) -> Reading:
        """For whoever scrapes; numbers that are read while they change may be a moment apart."""
        serving, residency, share = self._serving, self._residency, self._share
        if self.backend is not None:
            return replace(
                self.backend.reading(),
                served_seconds=share.served_seconds,
                trained_seconds=share.trained_seconds,
                recent_train_share=share.recent,
            )
        with self._condition:
            waiting = [generation for generation in self._line if not generation.cancelled]
        return Reading(
            running=serving.scheduler.running if serving else 0,
            waiting=len(waiting),
            kv_cache_share=serving.scheduler.cache_share if serving else 0.0,
            prefix_queried_tokens=self._prefixes.queried_tokens,
            prefix_found_tokens=self._prefixes.found_tokens,
            max_adapters=residency.max_adapters,
            resident_adapters=len(residency),
            resident_bytes=residency.size_bytes,
            adapter_loads=residency.loads,
            adapter_evictions=residency.evictions,
            running_adapters=serving.scheduler.adapters if serving else (),
            waiting_adapters=tuple({one.ask.adapter.key for one in waiting if one.ask.adapter}),
            served_seconds=share.served_seconds,
            trained_seconds=share.trained_seconds,
            recent_train_share=share.recent,
        )

    def _embedded(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        serving = self._ready()
        found: list[torch.Tensor] = []

        def embed(_adapters: ResidentAdapters, settled: Settled) -> None:
            from adapter_service.engine.embedding import embeddings

            found.append(embeddings(serving.base, texts))
            settled(None)

        self._order(embed)
        return found[0]

    def _order(self, order: Order) -> None:
        """Have the engine's thread do something in its next turn, and wait until it is done."""
        serving = self._ready()
        future: Future[None] = Future()

        def settled(error: Exception | None) -> None:
            if future.done():  # it failed halfway, and what it had begun ends now
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        with self._condition:
            self._refuse_when_stopping()
            serving.order(order, settled)
            self._wake()
        future.result()

    def _refuse_when_stopping(self) -> None:
        if self._ends_at is not None:
            raise NotReadyError("the service is stopping")

    def _ready(self) -> Serving:
        if self._error is not None:
            raise NotReadyError(f"the base could not be loaded: {self._error}") from self._error
        if self._serving is None:
            raise NotReadyError(f"the base is not ready yet ({self.note}); see /ready")
        return self._serving

    # On the engine's thread.

    def _run(self) -> None:
        try:
            serving = self._load()
        except AdapterServiceError as error:
            log.error("the base could not be loaded: %s", error, extra={"action": "base_failed"})
            self._fail(error)
            return
        except Exception as error:
            log.exception("the base could not be loaded", extra={"action": "base_failed"})
            self._fail(NotReadyError(f"internal error while loading ({type(error).__name__}); see the log"))
            return
        with self._condition:
            self._serving = serving
            self._condition.notify_all()
        if self.backend is not None:
            self.backend.start(serving.base, self.measures)
        self._settled()
        while not self._is_over():
            # A turn, then work: neither waits for the other to cease. In the work, requests have its pauses.
            self._since = time.monotonic()
            has_served = self._serve(serving)
            if not self._run_next_work(serving) and not has_served:
                self._park()
        self._refuse_the_rest(serving)

    def _load(self) -> Serving:
        from adapter_service.engine.serving import Kept, Serving

        base = self._load_base(self._set_note)
        kept = Kept(self._line, self._residency, self._prefixes, self.measures, self._condition, self._wake)
        settings = self._settings
        self._set_note("trying the base out; the first time, its steps are compiled (half a minute)")
        serving = Serving(base, kept, max_active=settings.max_active_requests, kernel=settings.kernel)
        self._set_note("ready")
        return serving

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

    def _serve(self, serving: Serving) -> bool:
        """One turn; False when there was nothing to do."""
        busy = serving.turn()
        if busy:
            self._share.served(self._passed())
        return busy

    def _passed(self) -> float:
        """Seconds since it was last asked: told one after the other, no time between turns and slices is lost."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        return passed

    def _run_next_work(self, serving: Serving) -> bool:
        """False when there is none."""
        if not self._work or self._ends_at is not None:
            return False
        work, future = self._work.popleft()
        self.working = True
        self._share.training_begins()
        self._since = time.monotonic()
        try:
            future.set_result(work(self._turn_of(serving)))
        except BaseException as error:  # noqa: BLE001 - it is raised where `run` was called
            future.set_exception(error)
        finally:
            del future  # see `run`
            self.working = False
        return True

    def _turn_of(self, serving: Serving) -> Turn:
        from adapter_service.base_models.pauses import apart

        threads = serving.base.precision.threads

        def pause() -> None:
            self._share.trained(self._passed())
            self._refuse_when_stopping()
            if serving.is_wanted and not self._share.training_is_due():
                apart(lambda: self._serve_until_training_is_due(serving), threads=threads)
                self._share.served(self._passed())

        return Turn(
            base=serving.base,
            renderer=serving.renderer,
            layers=serving.layers,
            read_adapter=serving.read,
            new_batch=serving.new_batch,
            rounds_weights=serving.kernel.name == "int8",
            pause=pause,
        )

    def _serve_until_training_is_due(self, serving: Serving) -> None:
        while serving.is_wanted and not self._share.training_is_due() and self._serve(serving):
            self._refuse_when_stopping()

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

    def _refuse_the_rest(self, serving: Serving) -> None:
        error = NotReadyError("the service is stopping")
        serving.end(error)
        with self._condition:
            work = list(self._work)
            self._work.clear()
        for _, future in work:
            future.set_exception(error)
