"""Answers of OpenAI's generation routes as episodes, when those are recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from adapter_service.adapter_names import BASE
from adapter_service.api.episode_log import in_its_language
from adapter_service.api.model_choice import ChosenModel
from adapter_service.api.services import Services
from adapter_service.api.token_details import token_details
from adapter_service.engine.generations import Choice, Generation, GenerationResult
from adapter_service.engine.requests import Ask, Sampling
from adapter_service.languages import Language
from rl.episodes import Episode, from_details

# What an episode has no field for; told only where it is not as it is without being asked for.
_BESIDE = ("min_p", "presence_penalty", "frequency_penalty")
_UNTOUCHED = {field.name: field.default for field in fields(Sampling)}


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer to one prompt."""

    ask: Ask
    choice: Choice
    prompt: str
    language: Language | None
    latency_seconds: float
    more: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of a request before its answers, which `id` groups.

    `template_id` is None where the prompt went in as it stands.
    """

    services: Services
    id: str
    source: str
    model: ChosenModel
    template_id: str | None
    trace_id: str
    arrived_at: float

    def record(
        self, generation: Generation, result: GenerationResult, prompt: str, language: Language | None, **more: Any
    ) -> None:
        """Hand all answers to the recorder, if episodes are recorded; each is made on the thread that writes.

        `prompt` is what a person asked; `more` goes into the episodes as it is.
        """
        if not self.services.episodes.logs_generations:
            return
        latency = time.monotonic() - self.arrived_at
        for choice in result.choices:
            if choice.finish_reason != "cancelled":
                said = _Said(generation.ask, choice, prompt, language, latency, more)
                self.services.episodes.recorder.record(partial(self._episode, said))

    def _episode(self, said: _Said) -> Episode:
        ask, choice, language = said.ask, said.choice, said.language
        version, episodes = self.model.version, self.services.episodes
        assert choice.tokens is not None  # noqa: S101 - they are asked for wherever episodes are recorded
        details = token_details(self.services.engine, ask, choice.tokens, version, self.template_id)
        policy, sampled_with, tokens = from_details(
            details.model_dump(),
            adapter_id=version.adapter if version else BASE,
            adapter_version=version.number if version else None,
        )
        return Episode(
            prompt=said.prompt,
            output=choice.text,
            env_name=episodes.settings.env_name,
            run_id=episodes.run_id,
            source=self.source,
            group_id=self.id if ask.count > 1 else None,
            policy=policy,
            sampled_with=sampled_with,
            tokens=tokens,
            stop_reason=choice.finish_reason,
            latency_seconds=said.latency_seconds,
            language=language.lang_tag if language else None,
            language_ok=in_its_language(choice.text, said.prompt, language),
            trace_id=self.trace_id,
            extra={**_beside(ask), **said.more},
        )


def _beside(ask: Ask) -> dict[str, Any]:
    told = {name: getattr(ask.sampling, name) for name in _BESIDE}
    changed = {name: value for name, value in told.items() if value != _UNTOUCHED[name]}
    if ask.sampling.logit_bias:
        changed["logit_bias"] = {str(token): bias for token, bias in ask.sampling.logit_bias.items()}
    if ask.sampling.constraint is not None:
        changed["constrained"] = True
    return changed
