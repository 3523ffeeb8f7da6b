"""From the body of a generation request to what the engine is asked, and from its result to the answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from adapter_service.adapter_names import BASE, RESERVED
from adapter_service.adapters import Version
from adapter_service.api.episode_log import EpisodeLog, in_its_language
from adapter_service.api.expectations import check_base
from adapter_service.api.model_choice import check_base_of, chosen_scale
from adapter_service.api.schemas.generation import GenerateAnswer, GenerateBody, TokenDetails, Usage
from adapter_service.api.services import Services
from adapter_service.api.token_details import token_details
from adapter_service.api.token_limits import check_prompt, check_token_ids, check_wanted
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Choice, Generation, GenerationResult
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling, default_sampling
from adapter_service.errors import InvalidParameterError, UnknownAdapterError
from adapter_service.languages import Language, detect, find
from adapter_service.languages.instructions import answer_language
from adapter_service.samples import Message
from adapter_service.settings import ServingSettings
from rl.episodes import Episode, from_details

# "none" is what the older service took for the base.
_BASE_NAMES = RESERVED.keys()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request under way; `language` is the one that the answer is expected in, if any."""

    generation: Generation
    prompt: str
    language: Language | None
    version: Version | None
    trace_id: str
    arrived_at: float
    engine: Engine
    episodes: EpisodeLog
    wants_tokens: bool

    def answer(self, result: GenerationResult) -> GenerateAnswer:
        """What the caller gets, recorded if that is wished; to be called once.

        Slow the first time, when the language model of py3langid is read.
        """
        answer, choice = self._answer(result), result.only
        if self.episodes.logs_generations and choice.finish_reason != "cancelled":
            self.episodes.recorder.record(lambda: self._episode(answer, choice))
        return answer

    def _answer(self, result: GenerationResult) -> GenerateAnswer:
        choice = result.only
        language = self.language or _detected(choice.text)
        return GenerateAnswer(
            text=choice.text,
            generated_text=choice.text,
            lang=language.tag if language else None,
            lang_tag=language.lang_tag if language else None,
            lang_ok=in_its_language(choice.text, self.prompt, self.language),
            adapter=self.version.adapter if self.version else BASE,
            version=self.version.number if self.version else None,
            usage=Usage(
                prompt_tokens=result.prompt_tokens,
                completion_tokens=result.completion_tokens,
                total_tokens=result.prompt_tokens + result.completion_tokens,
            ),
            tokens=self._details(choice) if self.wants_tokens else None,
            finish_reason=choice.finish_reason,
            latency_ms=round((time.monotonic() - self.arrived_at) * 1000, 1),
            trace_id=self.trace_id,
        )

    def _details(self, choice: Choice) -> TokenDetails:
        assert choice.tokens is not None  # noqa: S101 - it was asked for in `ask`
        as_it_stands = self.version is None and not self.engine.renderer.is_chat
        template_id = None if as_it_stands else self.engine.renderer.template_id
        return token_details(self.engine, self.generation.ask, choice.tokens, self.version, template_id)

    def _episode(self, answer: GenerateAnswer, choice: Choice) -> Episode:
        """On the thread that writes."""
        policy, sampled_with, tokens = from_details(
            self._details(choice).model_dump(), adapter_id=answer.adapter, adapter_version=answer.version
        )
        return Episode(
            prompt=self.prompt,
            output=answer.text,
            env_name=self.episodes.settings.env_name,
            run_id=self.episodes.run_id,
            source="/generate-lite",
            policy=policy,
            sampled_with=sampled_with,
            tokens=tokens,
            stop_reason=answer.finish_reason,
            latency_seconds=answer.latency_ms / 1000,
            language=self.language.lang_tag if self.language else None,
            language_ok=answer.lang_ok,
            trace_id=answer.trace_id,
        )


def ask(body: GenerateBody, services: Services, *, trace_id: str, arrived_at: float) -> Asked:
    """Check everything that can be checked, then put the request into the engine's queue."""
    settings = services.settings
    check_base("base_model", body.base_model, settings.model)
    if not body.prompt.strip():
        raise InvalidParameterError("'prompt' is blank; write what shall be answered", parameter="prompt")
    language = answer_language(body.prompt, None if body.lang is None else find(body.lang))
    version = chosen_version(body, services)
    scale = chosen_scale(body.lora_scale, version)
    sampling = sampling_for(body, settings.serving, language)
    check_base_of(version, services)
    check_token_ids({"eos_token_id": sorted(body.eos_ids())}, services.engine.base)
    files = AdapterFiles.of(version) if version else None
    if services.episodes.logs_generations:
        sampling = replace(sampling, return_tokens=True)
    prompt_ids = services.engine.prompt_ids([Message("user", body.prompt)], as_it_stands=version is None)
    if len(prompt_ids) > settings.serving.max_prompt_tokens:  # with the template's; the limit is of the text alone
        check_prompt(len(services.engine.renderer.text_ids(body.prompt)), settings.serving)
    generation = services.engine.submit(Ask(prompt_ids, sampling, files, scale))
    return Asked(
        generation,
        body.prompt,
        language,
        version,
        trace_id,
        arrived_at,
        services.engine,
        services.episodes,
        wants_tokens=body.return_tokens,
    )


def chosen_version(body: GenerateBody, services: Services) -> Version | None:
    """The version that shall answer; None for the base alone.

    Raises:
        UnknownAdapterError: there is none of that name, or none yet of the default's.
    """
    name = named_adapter(body)
    if name in _BASE_NAMES:
        return None
    if name is not None:
        return services.versions.resolve(name)
    default = services.settings.serving.default_adapter
    version = services.versions.live(default)
    if version is None:
        raise UnknownAdapterError(
            f"no version of the default adapter {default!r} is live yet; train it with "
            'POST /adapter/train-lite or ask with "adapter": "base"'
        )
    return version


def named_adapter(body: GenerateBody) -> str | None:
    """What the request calls the adapter, under either name of the field; None where it leaves it to the default."""
    older = body.adapter_path
    if older is None:
        return body.adapter
    if "/" in older or "\\" in older:
        raise InvalidParameterError(
            f"'adapter_path' is {older[:80]!r}; no path is taken from a request: give the adapter's name, "
            'or "none" for the base alone',
            parameter="adapter_path",
        )
    if body.adapter is not None and {older, body.adapter} - _BASE_NAMES and older != body.adapter:
        raise InvalidParameterError(
            f"'adapter' is {body.adapter!r} and 'adapter_path' is {older!r}, but both name the adapter; give it once",
            parameter="adapter_path",
        )
    return older


def sampling_for(body: GenerateBody, serving: ServingSettings, language: Language | None) -> Sampling:
    """How tokens are chosen: greedy unless asked otherwise, with the configured limits and defaults."""
    max_new_tokens = body.max_new_tokens or serving.default_max_new_tokens
    check_wanted(max_new_tokens, "max_new_tokens", serving)
    if body.min_new_tokens > max_new_tokens:
        raise InvalidParameterError(
            f"'min_new_tokens' is {body.min_new_tokens}, more than max_new_tokens ({max_new_tokens}); "
            "lower the one or raise the other",
            parameter="min_new_tokens",
        )
    sampling = default_sampling(serving, language, max_new_tokens=max_new_tokens)
    penalties = ("repetition_penalty", "foreign_script_penalty")
    given = {name: value for name in penalties if (value := getattr(body, name)) is not None}
    return replace(
        sampling,
        min_new_tokens=body.min_new_tokens,
        do_sample=_samples(body),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        seed=body.seed,
        stop=body.stop_texts(),
        extra_eos_ids=body.eos_ids(),
        return_tokens=body.return_tokens,
        **given,
    )


def _samples(body: GenerateBody) -> bool:
    if body.do_sample is not None:
        return body.do_sample
    given = (body.temperature, body.top_p, body.top_k)
    return body.temperature != 0.0 and any(value is not None for value in given)


def _detected(text: str) -> Language | None:
    tag = detect(text)
    return find(tag) if tag else None
