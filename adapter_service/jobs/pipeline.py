"""What a training job does from its request to a live version: stream, train, evaluate, gate, publish."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.adapters import Version, VersionStatus, VersionStore, check_name
from adapter_service.commands.training_request import CommandTraining
from adapter_service.durable import write_whole
from adapter_service.engine.constraints import Constraint
from adapter_service.engine.engine import Engine
from adapter_service.engine.grammar_compiler import GrammarCompiler
from adapter_service.engine.grammars import Grammar
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import BackendUnreachableError, DamagedJobError, UnknownJobError
from adapter_service.jobs.adapter_files import write_adapter_files
from adapter_service.jobs.beginning import check_same_base, megabytes_needed
from adapter_service.jobs.command_lesson import CommandLesson
from adapter_service.jobs.context import JobContext
from adapter_service.jobs.file_store import FileStore
from adapter_service.jobs.job import Job, Phase
from adapter_service.jobs.learning import Trained, recipe_key, run_key, train, with_budget
from adapter_service.jobs.lesson import CorpusLesson, Lesson, kept
from adapter_service.jobs.pace import Pace, TrainingKind, Work, work_of
from adapter_service.jobs.store import JobStore
from adapter_service.jobs.streaming import Streamed
from adapter_service.jobs.train_request import TrainRequest, raised_budget, settings_for
from adapter_service.settings import Settings
from adapter_service.training.batching import sequences_per_step
from adapter_service.training.gate import Decision

if TYPE_CHECKING:
    from adapter_service.training.progress import Progress

# The sections that a job's record repeats; the whole is in `resolved_config.yaml` beside the weights.
_RECIPE = ("lora", "training", "loss", "data", "gate")


class TrainingPipeline:
    """Runs jobs for the runner; `work_dir` holds what is not yet a version.

    Without `files` no job can name an uploaded file as its source; without `jobs` a node's commands are all new.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        versions: VersionStore,
        work_dir: Path,
        files: FileStore | None = None,
        jobs: JobStore | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._versions = versions
        self._work_dir = work_dir
        self._settings_for = settings_for if files is None else files.settings_for
        self._jobs = jobs
        self._pace = Pace()

    def estimate(self, request: TrainRequest) -> dict[str, Any]:
        """How much a request is: at most so many samples and steps, seconds where speed is known, memory of a base."""
        settings = self._settings_for(request, self._settings)
        work = work_of(settings, self._pace.tokens_per_sample)
        known = self._pace.seconds(work)
        seconds = None if known is None else round(known)
        per_step = sequences_per_step(settings.training)
        raised = raised_budget(request, self._settings)
        budget = f"; token_budget is raised to {raised}, so that max_seq_length fits" if raised else ""
        took = "time unknown until a first job was measured" if seconds is None else f"about {seconds} s"
        return {
            "samples": work.samples,
            "steps": work.steps,
            "seconds": seconds,
            "memory_mb": megabytes_needed(settings, self._engine) if self._engine.state == "ready" else None,
            "message": f"at most {work.samples} samples, {work.steps} steps of {per_step} sequences; {took}{budget}",
        }

    def __call__(self, job: Job, context: JobContext) -> Mapping[str, Any]:
        with ExitStack() as leases:
            return self._run(job, context, self._work_dir / job.id, leases)

    def forget(self, job_id: str) -> None:
        """Remove the work folder of a job whose row says that it has ended; until then it may have to go on."""
        shutil.rmtree(self._work_dir / job_id, ignore_errors=True)

    def _run(self, job: Job, context: JobContext, folder: Path, leases: ExitStack) -> Mapping[str, Any]:
        check_name(job.adapter)
        lesson = self._lesson_of(job)
        self._engine.wait_until_ready()
        base = self._engine.base
        parent = self._parent(lesson, folder, leases)
        settings = lesson.settings if parent is None else lesson.going_on(parent)
        watch = _JobWatch(context, self._pace, work_of(settings, self._pace.tokens_per_sample))
        context.report(phase=Phase.STREAMING, base=base.public_name, precision=base.precision.to_dict())
        streamed = self._gather(lesson, settings, folder, watch)
        context.report(samples=streamed.counts, source=streamed.source)
        version, trained = self._train(job, settings, streamed, parent, folder, context, watch)
        training = asdict(trained.result) if trained else _told_of(version)
        judged_with = with_budget(settings, training["token_budget"]) if training else settings
        version, decision = self._judge(lesson, judged_with, streamed, version, trained, context, watch)
        return {
            "training": training if trained or version.job_id == job.id else None,
            "version": version.number,
            "version_key": version.key,
            "reference": version.reference,
            "version_status": str(version.status),
            "gate": decision.as_dict() if decision else dict(version.gate),
            "samples": dict(streamed.counts),
            "source": streamed.source,
            "base": base.public_name,
            "precision": base.precision.to_dict(),
            "recipe": {name: getattr(settings, name).model_dump(mode="json") for name in _RECIPE},
        }

    def _lesson_of(self, job: Job) -> Lesson:
        if job.node_id is not None:
            lesson = CommandLesson(
                CommandTraining.from_dict(job.request),
                self._settings,
                self._engine,
                learned_by=self._learned_by,
                compile_form=self._compile,
            )
            if job.attempt == 1:
                lesson.check_wanted()
            return lesson
        request = TrainRequest.model_validate(dict(job.request))
        return CorpusLesson(request, self._settings_for(request, self._settings), self._engine)

    def _learned_by(self, version: Version) -> CommandTraining | None:
        """What a node's version was trained for; None where that is not known any more."""
        if self._jobs is None or version.job_id is None:
            return None
        try:
            job = self._jobs.get(version.job_id)
        except (UnknownJobError, DamagedJobError):
            return None
        return CommandTraining.from_dict(job.request) if job.node_id is not None else None

    def _compile(self, grammar: Grammar) -> Constraint:
        return self._compiler.compile(grammar)

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self._engine.base.tokenizer)

    def _parent(self, lesson: Lesson, folder: Path, leases: ExitStack) -> Version | None:
        """The version that training goes on from; whatever goes live meanwhile, it is that of the first attempt.

        Its files stay until `leases` is closed.

        Raises:
            AdapterFormatError: they are no longer what was published.
        """
        noted = folder / "parent"
        if noted.exists():
            reference = noted.read_text() or None
        elif (reference := lesson.begins_with(self._versions)) is None:
            write_whole(noted, "")
        if reference is None:
            return None
        parent = self._versions.resolve(reference)
        check_same_base(parent, self._engine)
        leases.enter_context(kept(parent))
        self._versions.verify(parent)
        if not noted.exists():
            write_whole(noted, parent.reference)
        return parent

    def _gather(self, lesson: Lesson, settings: Settings, folder: Path, watch: _JobWatch) -> Streamed:
        streamed = lesson.gather(settings, folder / "stream", watch)
        self._pace.streamed(streamed.samples_now, streamed.seconds)
        watch.held_out = len(streamed.dataset.holdout)
        return streamed

    def _train(
        self,
        job: Job,
        settings: Settings,
        streamed: Streamed,
        parent: Version | None,
        folder: Path,
        context: JobContext,
        watch: _JobWatch,
    ) -> tuple[Version, Trained | None]:
        """A version of what was streamed; one that was trained in the same way before is taken as it is."""
        parent_key = parent.key if parent else None
        key = run_key(settings, streamed, self._engine, parent_key)
        version = self._versions.find(job.adapter, key)
        if version is not None:
            context.log(f"{version.reference} was trained on the same samples with the same settings")
            return version, None
        context.report(phase=Phase.TRAINING)
        trained = train(
            settings,
            streamed.dataset,
            self._engine,
            watch,
            start=AdapterFiles.of(parent) if parent else None,
            checkpoints=folder / "checkpoints",
            run_key=recipe_key(settings, streamed, self._engine, parent_key),
            discards_other=True,
        )
        result = trained.result
        kind = TrainingKind(result.preset, result.loss_vocabulary, settings.lora.layers)
        self._pace.trained(kind, result.tokens, result.samples, result.seconds)
        return self._publish(job, settings, streamed, trained, key, parent, folder), trained

    def _publish(
        self,
        job: Job,
        settings: Settings,
        streamed: Streamed,
        trained: Trained,
        key: str,
        parent: Version | None,
        folder: Path,
    ) -> Version:
        """Write the candidate's files and make them an immutable version."""
        artifact = folder / "artifact"
        shutil.rmtree(artifact, ignore_errors=True)
        artifact.mkdir(parents=True)
        write_adapter_files(artifact, trained, streamed, settings, self._engine, job.adapter)
        return self._versions.publish(
            job.adapter,
            artifact,
            key=key,
            job_id=job.id,
            base_id=self._engine.base.identity,
            parent_key=parent.key if parent else None,
        )

    def _judge(
        self,
        lesson: Lesson,
        settings: Settings,
        streamed: Streamed,
        version: Version,
        trained: Trained | None,
        context: JobContext,
        watch: _JobWatch,
    ) -> tuple[Version, Decision | None]:
        """Hold the version against what is live (else the base), and let it go live or not."""
        if version.status is VersionStatus.LIVE:
            context.log(f"{version.reference} is live already")
            return version, None
        if not settings.gate.enabled:
            context.report(phase=Phase.PUBLISHING)
            context.log("gate.enabled is false: the version goes live unjudged")
            unjudged = {"verdict": "not judged", "reasons": ["gate.enabled is false"]}
            return self._go_live(version, unjudged, context), None
        context.report(phase=Phase.EVALUATING)
        replaced = self._versions.live(version.adapter)
        live = self._incumbent(version, replaced, context)
        with kept(live), watch.evaluation():
            decision = lesson.judge(settings, streamed, version, trained, live, watch)
        context.report(phase=Phase.GATING)
        against = live.reference if live else "the base"
        for reason in decision.reasons:
            context.log(f"gate, against {against}: {reason}")
        if decision.passed and _key(self._versions.live(version.adapter)) != _key(replaced):
            context.log(f"what is live under {version.adapter!r} changed meanwhile; judging anew")
            return self._judge(lesson, settings, streamed, version, trained, context, watch)
        context.report(phase=Phase.PUBLISHING, gate=decision.as_dict())
        verdict = {**decision.as_dict(), "against": against}
        if decision.passed:
            version = self._go_live(version, verdict, context)
        else:
            version = self._versions.reject(version, decision.reasons, verdict)
        context.log(f"{version.reference} is {version.status}")
        return version, decision

    def _go_live(self, version: Version, verdict: Mapping[str, Any], context: JobContext) -> Version:
        """Loaded first wherever it is served from, so that no request waits for that."""
        try:
            self._engine.load(AdapterFiles.of(version))
        except BackendUnreachableError as error:
            context.log(f"{version.reference} goes live and is loaded later: {error}")
        return self._versions.go_live(version, verdict, check=context.check_wanted)

    def _incumbent(self, version: Version, live: Version | None, context: JobContext) -> Version | None:
        """What the version is measured against; a live one of another base cannot be served, nor measured."""
        if live is None or live.base_id == version.base_id:
            return live
        context.log(f"{live.reference} is of another base; the new version is held against the base alone")
        return None


class _JobWatch:
    """Passes what happens in a run on to the job's row and log, with the time that is left as far as it is known."""

    def __init__(self, context: JobContext, pace: Pace, work: Work) -> None:
        self._context = context
        self._pace = pace
        self._work = work
        self._evaluating_since = 0.0
        self.held_out = work.judged_by

    def streamed(self, counts: Mapping[str, Any]) -> None:
        self._context.report(samples=dict(counts), seconds_left=self._pace.seconds(self._work, streamed=counts["used"]))

    def trained(self, progress: Progress) -> None:
        described = asdict(progress)
        step, total = described.pop("step"), described.pop("total_steps")
        described["seconds_left"] += self._evaluating_seconds()
        self._context.report(step=step, total=total, **described)
        self._context.log(
            f"step {step} of {total}: {progress.loss_name} {progress.loss:.3f}, "
            f"{progress.tokens_per_second:.0f} tokens/s, "
            f"{described['seconds_left']:.0f} s left"
        )

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Time the evaluation inside, which measures both sides on what was held out."""
        self._evaluating_since = time.monotonic()
        self.evaluated()
        yield
        self._pace.evaluated(self.held_out, time.monotonic() - self._evaluating_since)

    def evaluated(self) -> None:
        """A part of the evaluation is done."""
        spent = time.monotonic() - self._evaluating_since
        self._context.report(seconds_left=max(0.0, self._evaluating_seconds() - spent))

    def _evaluating_seconds(self) -> float:
        """0 before the first evaluation: it is not known then, and is short beside training."""
        return self._pace.evaluating_seconds(self.held_out if self._work.judged_by else 0) or 0.0

    def note(self, message: str) -> None:
        self._context.log(message)

    def cancelled(self) -> bool:
        return self._context.cancelled() or self._context.stopping()


def _key(version: Version | None) -> str | None:
    return version.key if version else None


def _told_of(version: Version) -> dict[str, Any] | None:
    """What the attempt that trained it wrote beside the weights; None of one that was not trained here."""
    if version.job_id is None:
        return None
    try:
        described = json.loads((version.path / "training_metadata.json").read_text(encoding="utf-8"))
        told: dict[str, Any] = described["result"]
    except (OSError, ValueError, KeyError):
        return None
    return told if isinstance(told.get("token_budget"), int) else None
