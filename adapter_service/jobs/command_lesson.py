"""A node's commands as a job's lesson: sentences made of their examples, judged by routing those that are held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from adapter_service.adapters import Version, VersionStore
from adapter_service.canonical import canonical_json
from adapter_service.commands.curriculum import Curriculum, HeldOut, curriculum_of
from adapter_service.commands.dated_tools import said_in_keys
from adapter_service.commands.formatted import formatted_curriculum
from adapter_service.commands.prompting import NONE_FITS, call_text
from adapter_service.commands.schema import Command
from adapter_service.commands.scoring import Routed, Score, findings, score
from adapter_service.commands.shortlist import Shortlist
from adapter_service.commands.tools import tool_of
from adapter_service.commands.training_request import CommandTraining
from adapter_service.commands.validation import read_commands
from adapter_service.conversation import Tool
from adapter_service.engine.answering import answer_together
from adapter_service.engine.constraints import Constraint
from adapter_service.engine.engine import Engine
from adapter_service.engine.grammars import Grammar
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.engine.tool_calls import call_or_text_grammar
from adapter_service.engine.turn import Turn
from adapter_service.errors import (
    AdapterFormatError,
    ExpiredRequestError,
    InvalidParameterError,
    InvalidSampleError,
    JobCancelledError,
    NothingToLearnError,
)
from adapter_service.jobs.beginning import trained_with
from adapter_service.jobs.learning import Trained
from adapter_service.jobs.lesson import LessonWatch
from adapter_service.jobs.routed_answers import routed
from adapter_service.jobs.streaming import Streamed, Watch
from adapter_service.samples import Message, Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset
from adapter_service.training.gate import Decision

# An answer that is not done after twice the longest right one is not going to be.
_LEAST_ANSWER_TOKENS = 64


Compile = Callable[[Grammar], Constraint]


class CommandLesson:
    """What `training` asks for, with the service's `settings` where it says nothing.

    `learned_by` finds what a version was trained for; what it knows already is only repeated where training goes on
    from it. `compile_form` makes a grammar into what answers are held to.
    """

    def __init__(
        self,
        training: CommandTraining,
        settings: Settings,
        engine: Engine,
        *,
        learned_by: Callable[[Version], CommandTraining | None],
        compile_form: Compile,
    ) -> None:
        self._training = training
        self._rules = training.recipe(settings.commands)
        self._engine = engine
        self._learned_by = learned_by
        self._compile_form = compile_form
        self._known: frozenset[str] = frozenset()
        self.settings = self._own(settings, self._rules.learning_rate)

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        return read_commands(self._training.commands, self._rules)

    @cached_property
    def curriculum(self) -> Curriculum:
        zone, fraction = ZoneInfo(self._training.time_zone), self._rules.holdout_fraction
        if self._training.formatted is not None:
            return formatted_curriculum(self._training.formatted, holdout_fraction=fraction)
        variations = self._rules.variations
        return curriculum_of(self.commands, zone, holdout_fraction=fraction, variations=variations, known=self._known)

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

    def going_on(self, parent: Version) -> Settings:
        """With a lower rate, unless the request says one, and less of the commands that are as they were."""
        before = self._learned_by(parent)
        if before is not None and self._training.formatted is None and before.formatted is None:
            same = {canonical_json(command) for command in before.commands}
            commands = [command for command in self._training.commands if canonical_json(command) in same]
            self._known = frozenset(str(command["command_name"]) for command in commands)
            del self.curriculum
        given = "learning_rate" in self._training.params
        rate = self._rules.learning_rate if given else self._rules.going_on_learning_rate
        return self._own(self.settings, rate)

    def gather(self, settings: Settings, folder: Path, watch: Watch) -> Streamed:  # noqa: ARG002 - made anew at once
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

    def check_wanted(self) -> None:
        """Raise ExpiredRequestError where nobody waits for it any more; to be asked before it begins."""
        expires_at = self._training.expires_at
        if expires_at is not None and datetime.fromisoformat(expires_at) <= datetime.now(UTC):
            raise ExpiredRequestError(f"the job was wanted until {expires_at} and had not begun; send it anew")

    def _score(self, files: AdapterFiles, watch: Watch) -> Score:
        """By the bytes on the disk, as they are served."""
        holdout = self.curriculum.holdout
        forms = self._forms
        answers = self._engine.run(lambda turn: _routed(turn, holdout, forms, files, watch))
        return score(self.commands, holdout, list(map(self._grounded, holdout, answers)))

    def _grounded(self, held: HeldOut, answer: Routed) -> Routed:
        """As a sentence is routed for its node: what the sentence does not bear out is no part of the call."""
        grounding, known = self.curriculum.grounding, {"rooms": self.curriculum.rooms}
        if grounding is None or answer.name is None or answer.arguments is None:
            return answer
        return replace(answer, arguments=grounding.grounded(answer.name, answer.arguments, held.sentence, known))

    @cached_property
    def _forms(self) -> list[Constraint | None]:
        """What each answer is held to, as for its node: a call of what it can mean of what is offered, or none fits."""
        made: dict[tuple[str, ...], Constraint] = {}
        forms: list[Constraint | None] = []
        for functions in self._functions():
            names = tuple(function.name for function in functions)
            if names and names not in made:
                made[names] = self._compile_form(call_or_text_grammar(functions, NONE_FITS))
            forms.append(made.get(names))
        return forms

    def _functions(self) -> list[tuple[Tool, ...]]:
        """What each held-out sentence can mean of what is offered, with dates said in keys."""
        holdout, calls = self.curriculum.holdout, self.curriculum.calls
        offered = [tuple(said_in_keys(tool_of(command)) for command in held.offered) for held in holdout]
        if not calls or not holdout:
            return offered
        return Shortlist(calls, self._engine.embeddings).of([held.sentence for held in holdout], offered)

    def _own(self, settings: Settings, learning_rate: float) -> Settings:
        rules = self._rules
        training = settings.training.model_copy(
            update={
                "num_epochs": rules.num_epochs,
                "per_device_train_batch_size": rules.batch_size,
                "gradient_accumulation_steps": 1,
                "learning_rate": learning_rate,
                "warmup_steps": rules.warmup_steps,
                "max_seq_length": rules.max_seq_len,
                "token_budget": rules.token_budget,
                "prefix_gradient": False,  # that is the functions, seven eighths of a sample
                "embedding_noise": rules.embedding_noise,
            }
        )
        lora = settings.lora.model_copy(update={"r": rules.rank, "alpha": 2 * rules.rank})
        # A step takes two thirds of the time; which of so few answers is right is seen in any sample of the vocabulary.
        loss = settings.loss.model_copy(update={"vocabulary": "sampled"})
        sections = {"training": training, "lora": lora, "loss": loss}
        own = settings.model_copy(update=sections)
        data = settings.data.model_copy(update={"max_train_samples": len(self.curriculum.training)})
        return own.model_copy(update={"data": data})


def _right_answer(held: HeldOut) -> str:
    return NONE_FITS if held.command_name is None else call_text(held.command_name, held.arguments)


def _routed(
    turn: Turn, holdout: Sequence[HeldOut], forms: Sequence[Constraint | None], files: AdapterFiles, watch: Watch
) -> list[Routed]:
    """Greedily; those that begin alike one after the other, which is computed once, and those that are alike once."""

    def pause() -> None:
        if watch.cancelled():
            raise JobCancelledError("cancelled while evaluating")
        turn.pause()

    adapter = turn.read_adapter(files).frozen_copy(turn.base.adapter_dtype).to(turn.base.device)
    longest = max((len(turn.renderer.text_ids(_right_answer(held))) for held in holdout), default=0)
    sampling = Sampling(max_new_tokens=max(_LEAST_ANSWER_TOKENS, 2 * longest))
    asked = [(held.messages, form) for held, form in zip(holdout, forms, strict=True)]
    once = sorted(dict.fromkeys(asked), key=lambda one: one[0][0].content)
    samplings = [replace(sampling, constraint=form) for _, form in once]
    texts = answer_together(replace(turn, pause=pause), [messages for messages, _ in once], samplings, adapter)
    answers = dict(zip(once, map(routed, texts), strict=True))
    return [answers[one] for one in asked]
