"""A node's commands as a job's lesson: sentences made of their examples, judged by routing those that are held out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from adapter_service.adapters import Version, VersionStore
from adapter_service.commands.curriculum import Curriculum, HeldOut, curriculum_of
from adapter_service.commands.formatted import formatted_curriculum
from adapter_service.commands.prompting import NONE_FITS, call_text
from adapter_service.commands.schema import Command
from adapter_service.commands.scoring import Routed, Score, findings, score
from adapter_service.commands.training_request import CommandTraining
from adapter_service.commands.validation import read_commands
from adapter_service.engine.answering import answer_together
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.engine.tool_calls import parse_tool_calls
from adapter_service.engine.turn import Turn
from adapter_service.errors import (
    AdapterFormatError,
    ExpiredRequestError,
    InvalidParameterError,
    InvalidSampleError,
    JobCancelledError,
    NothingToLearnError,
    ToolCallFormatError,
)
from adapter_service.jobs.beginning import trained_with
from adapter_service.jobs.learning import Trained
from adapter_service.jobs.lesson import LessonWatch
from adapter_service.jobs.streaming import Streamed, Watch
from adapter_service.samples import Message, Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset
from adapter_service.training.gate import Decision

# An answer that is not done after twice the longest right one is not going to be.
_LEAST_ANSWER_TOKENS = 64


class CommandLesson:
    """What `training` asks for, with the service's `settings` where it says nothing."""

    def __init__(self, training: CommandTraining, settings: Settings, engine: Engine) -> None:
        self._training = training
        self._rules = training.recipe(settings.commands)
        self._engine = engine
        self.settings = self._own(settings)

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        return read_commands(self._training.commands, self._rules)

    @cached_property
    def curriculum(self) -> Curriculum:
        zone, fraction = ZoneInfo(self._training.time_zone), self._rules.holdout_fraction
        if self._training.formatted is not None:
            return formatted_curriculum(self._training.formatted, holdout_fraction=fraction)
        return curriculum_of(self.commands, zone, holdout_fraction=fraction)

    def begins_with(self, versions: VersionStore) -> str | None:
        """The node's live adapter, where it is of this base and this shape: what did not change is not learned anew."""
        live = versions.live(self._training.adapter)
        if live is None or live.base_id != self._engine.base.identity:
            return None
        try:
            shape = trained_with(live)
            versions.verify(live)
        except (InvalidParameterError, AdapterFormatError):
            return None
        return live.reference if shape == self.settings.lora.model_dump(mode="json") else None

    def going_on(self, parent: Version) -> Settings:  # noqa: ARG002 - it has the same shape
        return self.settings

    def gather(self, settings: Settings, folder: Path, watch: Watch) -> Streamed:  # noqa: ARG002 - made anew at once
        self._check_wanted()
        began_at, curriculum, dataset = time.monotonic(), self.curriculum, Dataset()
        renderer, most = self._engine.renderer, settings.training.max_seq_length
        for sample in curriculum.training:
            try:
                dataset.train_on(renderer.render(sample, most))
            except InvalidSampleError as error:
                dataset.refused += 1
                dataset.refusals.append(str(error))
        if dataset.refused > settings.data.max_skipped_fraction * len(curriculum.training):
            raise NothingToLearnError(
                f"{dataset.refused} of {len(curriculum.training)} samples are too long; first: {dataset.refusals[0]}. "
                "Shorten descriptions, or raise params.max_seq_len"
            )
        for held in curriculum.holdout:
            sample = Sample((*held.messages, Message("assistant", _right_answer(held))))
            try:
                dataset.hold_out(sample, renderer.render(sample, most))
            except InvalidSampleError:  # judged by all the same: it is the answer that counts
                watch.note(f"{held.sentence[:80]!r} is longer than {most} tokens with its functions")
        counts = {
            "used": len(dataset.train),
            "held_out": len(curriculum.holdout),
            "refused": dataset.refused,
            "repeated": curriculum.repeated,
            "contradicting": len(curriculum.contradicting),
            "retriever_recall": round(curriculum.recall, 4),
        }
        for text in curriculum.contradicting:
            watch.note(f"{text[:80]!r} is an example of several calls, and learned as none of them")
        watch.streamed(counts)
        seconds = time.monotonic() - began_at
        return Streamed(dataset, f"commands of node {self._training.node_id}", counts, len(dataset.train), seconds)

    def judge(
        self,
        settings: Settings,  # noqa: ARG002 - answers need no token budget
        streamed: Streamed,  # noqa: ARG002 - the curriculum has the right answers
        version: Version,
        trained: Trained | None,
        live: Version | None,
        watch: LessonWatch,
    ) -> Decision:
        if trained is not None and not trained.adapter.is_finite():
            reason = "Some weights are NaN or infinite; train again with a lower learning rate."
            return Decision("rejected", (reason,))
        candidate = self._score(AdapterFiles.of(version), watch)
        watch.evaluated()
        incumbent = self._score(AdapterFiles.of(live), watch) if live else None
        found = findings(candidate, incumbent, self._rules)
        metrics = {**candidate.metrics(), "retriever_recall": self.curriculum.recall}
        if incumbent is not None:
            metrics["live"] = incumbent.metrics()
        return Decision(
            "passed" if all(one.passed for one in found) else "rejected",
            tuple(one.sentence for one in found),
            metrics,
        )

    def _check_wanted(self) -> None:
        expires_at = self._training.expires_at
        if expires_at is not None and datetime.fromisoformat(expires_at) <= datetime.now(UTC):
            raise ExpiredRequestError(f"the job was wanted until {expires_at} and had not begun; send it anew")

    def _score(self, files: AdapterFiles, watch: Watch) -> Score:
        """By the bytes on the disk, as they are served."""
        holdout = self.curriculum.holdout
        answers = self._engine.run(lambda turn: _routed(turn, holdout, files, watch))
        return score(self.commands, holdout, answers)

    def _own(self, settings: Settings) -> Settings:
        rules = self._rules
        training = settings.training.model_copy(
            update={
                "num_epochs": rules.num_epochs,
                "per_device_train_batch_size": rules.batch_size,
                "gradient_accumulation_steps": 1,
                "learning_rate": rules.learning_rate,
                "max_seq_length": rules.max_seq_len,
                "token_budget": rules.token_budget,
            }
        )
        lora = settings.lora.model_copy(update={"r": rules.rank, "alpha": 2 * rules.rank})
        sections = {"training": training, "lora": lora}
        own = settings.model_copy(update=sections)
        data = settings.data.model_copy(update={"max_train_samples": len(self.curriculum.training)})
        return own.model_copy(update={"data": data})


def routed(text: str) -> Routed:
    """What an answer says: one call, or that no function fits; in our form, or in that of hubs' own completions."""
    if text.strip() == NONE_FITS:
        return Routed()
    try:
        calls = parse_tool_calls(_own_form(text))
    except ToolCallFormatError:
        return Routed(is_valid=False)
    return Routed(calls[0].name, calls[0].arguments) if len(calls) == 1 else Routed(is_valid=False)


def _own_form(text: str) -> str:
    """Of `{"message": …, "tool_calls": [call], "error": null}` the calls; anything else as it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, dict) or not {"tool_calls", "tool_call"} & found.keys():
        return text
    return json.dumps(found.get("tool_calls") or found.get("tool_call"))


def _right_answer(held: HeldOut) -> str:
    return NONE_FITS if held.command_name is None else call_text(held.command_name, held.arguments)


def _routed(turn: Turn, holdout: Sequence[HeldOut], files: AdapterFiles, watch: Watch) -> list[Routed]:
    """Greedily; free, so that the adapter itself is judged and not the grammar that may hold it."""

    def pause() -> None:
        if watch.cancelled():
            raise JobCancelledError("cancelled while evaluating")
        turn.pause()

    adapter = turn.read_adapter(files).frozen_copy(turn.base.adapter_dtype).to(turn.base.device)
    longest = max((len(turn.renderer.text_ids(_right_answer(held))) for held in holdout), default=0)
    sampling = Sampling(max_new_tokens=max(_LEAST_ANSWER_TOKENS, 2 * longest))
    watched = replace(turn, pause=pause)
    texts = answer_together(watched, [held.messages for held in holdout], [sampling] * len(holdout), adapter)
    return [routed(text) for text in texts]
