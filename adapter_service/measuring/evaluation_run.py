"""The evaluation of an adapter on the model in this process: held-out pairs, decoded in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version
from adapter_service.engine.answering import answer_together
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles, default_sampling
from adapter_service.engine.turn import Turn
from adapter_service.languages.instructions import answer_language
from adapter_service.measuring.evaluation import Evaluation, choose_pairs, evaluate
from adapter_service.measuring.holdout import split_source
from adapter_service.samples import Message
from adapter_service.settings import Settings

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter

_ANSWER_TOKENS = 64


def translations(turn: Turn, settings: Settings, prompts: Sequence[str], adapter: Adapter | None) -> list[str]:
    """Answers to `prompts`, decoded as the service decodes by default."""
    samplings = [
        default_sampling(settings.serving, answer_language(prompt, None), max_new_tokens=_ANSWER_TOKENS)
        for prompt in prompts
    ]
    return answer_together(turn, [[Message("user", prompt)] for prompt in prompts], samplings, adapter)


def evaluate_version(settings: Settings, engine: Engine, version: Version, source: str) -> Evaluation:
    """Score `version` and the base on up to 100 pairs of the source's holdout, with the same prompts."""
    held_out, rest = split_source(settings, source)

    def generate(prompts: list[str], adapter: str) -> list[str]:
        def on_engine(turn: Turn) -> list[str]:
            weights = None if adapter == BASE else turn.read_adapter(AdapterFiles.of(version))
            return translations(turn, settings, prompts, weights)

        return engine.run(on_engine)

    return evaluate(choose_pairs(held_out), generate, adapter=version.adapter, training_pairs=rest)
