"""Measure a trained adapter against what it would replace, on the holdout.

Both sides are scored in the arithmetic that serves. The candidate is also read back from the files
that will be served and scored again: what is published is what was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapter_service.engine.answering import answer_together
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles, default_sampling
from adapter_service.engine.scoring import score_together
from adapter_service.engine.turn import Turn
from adapter_service.errors import JobCancelledError
from adapter_service.jobs.streaming import Watch
from adapter_service.languages import LANGUAGES, Language
from adapter_service.languages.answers import chrf
from adapter_service.languages.instructions import answer_language
from adapter_service.rendering import RenderedSample
from adapter_service.samples import Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset
from adapter_service.training.gate import Measurements

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter
    from adapter_service.training.evaluation import Losses


def measure(
    settings: Settings, dataset: Dataset, engine: Engine, watch: Watch, adapter: Adapter | AdapterFiles | None
) -> Measurements:
    """Loss of every held-out sample, and chrF of generated answers to the first of those with a prompt.

    `adapter` is trained weights, a version's files, or None for the base.
    """

    def on_engine(turn: Turn) -> Measurements:
        served, finite = _as_served(turn, adapter)
        losses = _losses(settings, dataset, turn, watch, served)
        chosen = _to_generate(dataset, settings.gate.generate_samples)
        answers = _generate(settings, turn, watch, served, chosen) if finite else [""] * len(chosen)
        scores = [chrf(answer, sample.completion) for answer, (sample, _) in zip(answers, chosen, strict=True)]
        return Measurements(losses.sums, losses.tokens, scores, weights_finite=finite)

    return engine.run(on_engine)


def reread(
    settings: Settings,
    dataset: Dataset,
    engine: Engine,
    watch: Watch,
    candidate: Measurements,
    files: AdapterFiles,
) -> Measurements:
    """`candidate` with the loss of the same adapter read from `files`: the bytes on disk, not what is resident."""

    def on_engine(turn: Turn) -> float:
        from adapter_service.lora.folder import read_folder

        loaded = read_folder(files.folder, turn.layers).frozen_copy(turn.base.adapter_dtype).to(turn.base.device)
        return _losses(settings, dataset, turn, watch, loaded).per_token

    return replace(candidate, reloaded_loss=engine.run(on_engine))


def _losses(settings: Settings, dataset: Dataset, turn: Turn, watch: Watch, adapter: Adapter | None) -> Losses:
    """Of all that was held out: by steps where they round weights, else packed through the modules, which is faster."""
    from adapter_service.training.evaluation import Losses, score

    samples, pause = dataset.holdout_rendered, _pause(turn, watch)
    if turn.rounds_weights:
        sums = score_together(replace(turn, pause=pause), samples, adapter)
        return Losses(sums, [sample.completion_tokens for sample in samples])
    return score(turn.base, adapter, samples, budget_tokens=settings.training.token_budget, pause=pause)


def _to_generate(dataset: Dataset, count: int) -> list[tuple[Sample, RenderedSample]]:
    """The first held-out samples that have a prompt."""
    pairs = zip(dataset.holdout, dataset.holdout_rendered, strict=True)
    return [(sample, rendered) for sample, rendered in pairs if sample.prompt][:count]


def _generate(
    settings: Settings,
    turn: Turn,
    watch: Watch,
    adapter: Adapter | None,
    chosen: Sequence[tuple[Sample, RenderedSample]],
) -> list[str]:
    if not chosen:
        return []
    # An answer that is not done after twice the longest reference is not going to be.
    longest = 2 * max(rendered.completion_tokens for _, rendered in chosen)
    most = min(longest, settings.serving.max_new_tokens_limit)
    samplings = [default_sampling(settings.serving, _language_of(sample), max_new_tokens=most) for sample, _ in chosen]
    watched = replace(turn, pause=_pause(turn, watch))
    # All that stands before the answer, as it was trained on: a system message and earlier turns too.
    return answer_together(watched, [sample.messages[:-1] for sample, _ in chosen], samplings, adapter)


def _language_of(sample: Sample) -> Language | None:
    """As a request would say it that knows what the sample does."""
    return answer_language(sample.prompt or "", LANGUAGES.get(sample.language or ""))


def _as_served(turn: Turn, adapter: Adapter | AdapterFiles | None) -> tuple[Adapter | None, bool]:
    """The adapter in the type that serves, and whether its weights are finite."""
    if adapter is None:
        return None, True
    if isinstance(adapter, AdapterFiles):
        return turn.read_adapter(adapter).frozen_copy(turn.base.adapter_dtype).to(turn.base.device), True
    return adapter.frozen_copy(turn.base.adapter_dtype), adapter.is_finite()


def _pause(turn: Turn, watch: Watch) -> Callable[[], None]:
    def pause() -> None:
        if watch.cancelled():
            raise JobCancelledError("cancelled while evaluating")
        turn.pause()

    return pause
