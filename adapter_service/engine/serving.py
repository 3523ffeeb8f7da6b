"""A base that has been loaded, and all that answers by it: batch, adapters in memory, scheduler.

Made by the engine's thread, and used by it alone but where a docstring says otherwise.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_service.adapters.artifact import verify_folder
from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures
from adapter_service.engine.prefix_cache import PrefixCache
from adapter_service.engine.probe import choose_batch
from adapter_service.engine.requests import AdapterFiles, Ask
from adapter_service.engine.residency import Residency
from adapter_service.engine.resident_adapters import ResidentAdapters, Settled
from adapter_service.engine.scheduler import Scheduler
from adapter_service.engine.waiting import WaitingLine
from adapter_service.errors import AdapterServiceError, InvalidParameterError, PromptTooLongError
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.folder import read_folder, read_weights
from adapter_service.lora.layer import install
from adapter_service.lora.resident import ResidentAdapter
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import Renderer
from adapter_service.samples import Message
from adapter_service.settings import KernelSetting

log = logging.getLogger(__name__)

# Has something done on the engine's thread; whoever ordered it is told once it is done, or why it will not be.
Order = Callable[[ResidentAdapters, Settled], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the engine has before there is a base, and others look at; `lock` is held around the line."""

    line: WaitingLine[Generation]
    residency: Residency[ResidentAdapter]
    prefixes: PrefixCache
    measures: Measures
    lock: AbstractContextManager[Any]
    wake: Callable[[], None]


class Serving:
    """`max_active` answers grow at a time."""

    def __init__(self, base: BaseModel, kept: Kept, *, max_active: int, kernel: KernelSetting = "auto") -> None:
        self.base = base
        self.layers = install(base.model, keep=base.model.get_output_embeddings())
        self.renderer = Renderer(base.tokenizer)
        template, prefixes = self.renderer.template_id, kept.prefixes
        chosen = choose_batch(base, template, rows=max_active, prefixes=prefixes, kernel=kernel)
        log.info(chosen.note, extra={"action": "batch_chosen"})
        self.new_batch = chosen.new_batch
        self.kernel = chosen.kernel
        self.is_batch_invariant = chosen.is_invariant
        self.adapters = ResidentAdapters(self._read_to_serve, kept.residency, kept.measures, kept.wake)
        self.scheduler = Scheduler(
            base, chosen.batch, self.adapters, kept.line, kept.measures, lock=kept.lock, max_active=max_active
        )
        self._line = kept.line
        self._max_active = max_active
        self._orders: deque[tuple[Order, Settled]] = deque()

    def read(self, files: AdapterFiles) -> Adapter:
        """An adapter's weights from their folder, of whose bytes this disk has all.

        Raises:
            AdapterFormatError: it is damaged, of a kind that is not served, or for another base.
        """
        verify_folder(files.folder)
        return read_folder(files.folder, self.layers)

    def prompt_ids(self, messages: Sequence[Message], *, as_it_stands: bool) -> list[int]:
        """As `Engine.prompt_ids`; from any thread."""
        if not any(message.content.strip() for message in messages):
            raise InvalidParameterError("the prompt is empty; write what shall be answered", parameter="prompt")
        if as_it_stands and not self.renderer.is_chat:
            return self.renderer.text_ids("\n".join(message.content for message in messages))
        return self.renderer.prompt_ids(messages)

    def check(self, ask: Ask) -> None:
        """Whether it can be answered at all; from any thread.

        Raises:
            InvalidParameterError: more answers at once than may grow, or a token that the base has no row for.
            PromptTooLongError: prompt and answer do not fit the base's context.
        """
        most, wanted = self._max_active, ask.sampling.max_new_tokens
        if not 1 <= ask.count <= most:
            raise InvalidParameterError(
                f"'n' (or 'best_of') is {ask.count}; this service lets {most} answers grow at a time "
                f"(serving.max_active_requests): "
                f"ask for 1 to {most}",
                parameter="n",
            )
        if len(ask.prompt_ids) + wanted > self.base.context_tokens:
            raise PromptTooLongError(
                f"the prompt has {len(ask.prompt_ids)} tokens and {wanted} are to follow; "
                f"{self.base.public_name} takes {self.base.context_tokens} in all: shorten the "
                "prompt, or ask for a shorter answer"
            )

        known = self.base.vocabulary
        if (unknown := max(ask.prompt_ids)) >= known:  # some tokenizers have tokens that their base was never given
            text = self.base.tokenizer.convert_ids_to_tokens(unknown)
            raise InvalidParameterError(
                f"the prompt has token {unknown} ({text!r}); {self.base.public_name} has the tokens 0 to {known - 1}, "
                "fewer than its tokenizer: take that out of the text",
                parameter="prompt",
            )

    def order(self, order: Order, settled: Settled) -> None:
        """Have something done in the next turn; from any thread."""
        self._orders.append((order, settled))

    @property
    def is_wanted(self) -> bool:
        """Whether a turn has anything to do; asked at every layer of a pass, so that it takes no lock."""
        return bool(self._line or self.scheduler.active or self._orders or self.adapters.arrived)

    def turn(self) -> bool:
        """What was ordered, then one turn for the requests; False when there was nothing to do."""
        has_carried_out = self._carry_out_orders()
        try:
            return self.scheduler.turn() or has_carried_out
        except Exception as error:
            log.exception("the scheduler failed", extra={"action": "scheduler_failed"})
            self.scheduler.fail_all(error.with_traceback(None))
            return True

    def end(self, error: AdapterServiceError) -> None:
        """Refuse whoever waits, and end every answer where it is."""
        self.scheduler.end_all(error)
        self._carry_out_orders()
        self.adapters.close(error)

    def _carry_out_orders(self) -> bool:
        """False when there were none."""
        had_any = bool(self._orders)
        while self._orders:
            order, settled = self._orders.popleft()
            try:
                order(self.adapters, settled)
            except Exception as error:
                log.exception("an order failed", extra={"action": "order_failed"})
                settled(error.with_traceback(None))
        return had_any

    def _read_to_serve(self, files: AdapterFiles) -> ResidentAdapter:
        """On the reader's thread, and on another one, for hashing lets go of the interpreter."""
        verified: Future[None] = Future()
        # A daemon, as the reader is: a disk that never answers holds up no end of the process.
        threading.Thread(target=_verify, args=(files.folder, verified), name="adapter-hashing", daemon=True).start()
        try:
            _, weights = read_weights(files.folder, self.layers)
            return ResidentAdapter.of_weights(
                files.key, weights, self.kernel.adapter_dtype(self.base), self.base.device
            )
        finally:
            verified.result()  # that a file is damaged is what to say, not what came of reading it


def _verify(folder: Path, verified: Future[None]) -> None:
    try:
        verify_folder(folder)
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        verified.set_exception(error)
    else:
        verified.set_result(None)
