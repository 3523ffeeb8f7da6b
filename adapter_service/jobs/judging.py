"""Measure a trained adapter against what it would replace, on the holdout.

Both sides are scored in the arithmetic that serves. The candidate is also read back from the files
that will be served and scored again: what is published is what was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adapter_service.answers import chrf
from adapter_service.engine.engine import Engine, Turn
from adapter_service.engine.requests import AdapterFiles, Sampling
from adapter_service.errors import JobCancelledError
from adapter_service.jobs.learning import Watch
from adapter_service.samples import Message, Sample
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset
from adapter_service.training.gate import Measurements

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter

# References are short; an answer that is not done after twice the longest is not going to be.
_ANSWER_TOKENS = 96


def measure(
    settings: Settings, dataset: Dataset, engine: Engine, watch: Watch, adapter: Adapter | AdapterFiles | None
) -> Measurements:
    """Loss of every held-out sample, and chrF of generated answers to the first of those with a prompt.

    `adapter` is trained weights, a version's files, or None for the base.
    """

    def on_engine(turn: Turn) -> Measurements:
        from adapter_service.training.evaluation import score

        served, finite = _as_served(turn, adapter)
        losses = score(
            turn.base,
            served,
            dataset.holdout_rendered,
            budget_tokens=settings.training.token_budget,
            pause=_pause(turn, watch),
        )
        with_targets = [sample for sample in dataset.holdout if sample.prompt][: settings.gate.generate_samples]
        answers = _generate(settings, turn, watch, served, with_targets) if finite else [""] * len(with_targets)
        scores = [chrf(answer, s.completion) for answer, s in zip(answers, with_targets, strict=True)]
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
        from adapter_service.training.evaluation import score

        loaded = read_folder(files.folder, turn.layers).frozen_copy(turn.base.precision.dtype).to(turn.base.device)
        budget = settings.training.token_budget
        pause = _pause(turn, watch)
        return score(turn.base, loaded, dataset.holdout_rendered, budget_tokens=budget, pause=pause).per_token

    return replace(candidate, reloaded_loss=engine.run(on_engine))


def generate_answers(
    turn: Turn, conversations: Sequence[Sequence[Message]], sampling: Sampling, adapter: Adapter | None
) -> list[str]:
    """Answers to `conversations`, decoded together; requests that wait are answered between the steps."""
    from adapter_service.engine.decoding import decode_batch
    from adapter_service.lora.layer import using

    rendered = [turn.renderer.prompt_ids(messages) for messages in conversations]
    tokens: list[list[int]] = [[] for _ in conversations]
    with using(adapter):
        for index, token in decode_batch(turn.base, rendered, sampling, turn.pause):
            tokens[index].append(token)
    return [turn.base.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]


def _generate(
    settings: Settings, turn: Turn, watch: Watch, adapter: Adapter | None, samples: Sequence[Sample]
) -> list[str]:
    if not samples:
        return []
    sampling = Sampling(max_new_tokens=_ANSWER_TOKENS, repetition_penalty=settings.serving.repetition_penalty)
    watched = replace(turn, pause=_pause(turn, watch))
    # All that stands before the answer, as it was trained on: a system message and earlier turns too.
    return generate_answers(watched, [sample.messages[:-1] for sample in samples], sampling, adapter)


def _as_served(turn: Turn, adapter: Adapter | AdapterFiles | None) -> tuple[Adapter | None, bool]:
    """The adapter in the type that serves, and whether its weights are finite."""
    if adapter is None:
        return None, True
    if isinstance(adapter, AdapterFiles):
        return turn.load_adapter(adapter), True
    return adapter.frozen_copy(turn.base.precision.dtype), adapter.is_finite()


def _pause(turn: Turn, watch: Watch) -> Callable[[], None]:
    def pause() -> None:
        if watch.cancelled():
            raise JobCancelledError("cancelled while evaluating")
        turn.pause()

    return pause
