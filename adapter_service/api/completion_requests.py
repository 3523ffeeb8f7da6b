"""From the body of `POST /v1/completions` to what the engine is asked: one request for each prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from adapter_service.api.model_choice import model_for
from adapter_service.api.openai_episodes import Recording
from adapter_service.api.openai_requests import AnswerHead, ends_of, submit_all
from adapter_service.api.openai_sampling import room_for, sampling_of
from adapter_service.api.schemas.completions import DEFAULT_MAX_TOKENS, CompletionBody
from adapter_service.api.services import Services
from adapter_service.api.token_limits import check_token_ids
from adapter_service.api.token_logprobs import TokenBytes
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Generation, GenerationResult
from adapter_service.engine.requests import Ask
from adapter_service.errors import InvalidParameterError
from adapter_service.languages import Language
from adapter_service.languages.instructions import answer_language

PATH = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text to be continued."""

    text: str
    ids: list[int]

    @property
    def language(self) -> Language | None:
        return answer_language(self.text, None)


@dataclass(frozen=True, slots=True)
class AskedCompletion:
    """Prompts under way, each a generation; of each `count` answers are told. `tokens` as in `AskedChat`."""

    head: AnswerHead
    generations: tuple[Generation, ...]
    prompts: tuple[Prompt, ...]
    count: int
    recording: Recording
    ends: frozenset[int]
    tokens: TokenBytes | None
    echo: bool
    wants_usage: bool

    def record(self, place: int, result: GenerationResult) -> None:
        prompt = self.prompts[place]
        self.recording.record(self.generations[place], result, prompt.text, prompt.language)


def ask_completion(body: CompletionBody, services: Services, *, trace_id: str, arrived_at: float) -> AskedCompletion:
    """Check everything that can be checked, then put all prompts into the engine's queue, or none."""
    body.check()
    model = model_for(body, services)
    engine, serving = services.engine, services.settings.serving
    base = engine.base
    prompts = _prompts(body, engine)
    if len(prompts) > serving.queue_size:
        raise InvalidParameterError(
            f"'prompt' has {len(prompts)} texts; {serving.queue_size} may wait at once (serving.queue_size): "
            "send fewer in one request",
            parameter="prompt",
        )
    constraint = services.answer_forms.of_completion(body)
    ours = model.version is not None and constraint is None
    best_of = body.best_of or body.n or 1
    picks = best_of > (body.n or 1)
    wanted = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    asks = []
    for prompt in prompts:
        room = room_for(prompt.ids, wanted, "max_tokens", serving, base)
        sampling = replace(
            sampling_of(body, room, serving, prompt.language, ours=ours),
            constraint=constraint,
            return_tokens=body.logprobs is not None or picks or services.episodes.logs_generations,
            top_logprobs=body.logprobs or 0,
        )
        scores = body.logprobs if body.scores_prompt else None
        asks.append(Ask(prompt.ids, sampling, model.files, model.scale, best_of, prompt_logprobs=scores))
    head = AnswerHead.new("cmpl", model, services)
    return AskedCompletion(
        head=head,
        generations=submit_all(engine, asks),
        prompts=prompts,
        count=body.n or 1,
        recording=Recording(services, head.id, PATH, model, None, trace_id, arrived_at),
        ends=ends_of(engine, asks[0]),
        tokens=TokenBytes(base.tokenizer) if body.logprobs is not None else None,
        echo=bool(body.echo),
        wants_usage=body.wants_usage,
    )


def _prompts(body: CompletionBody, engine: Engine) -> tuple[Prompt, ...]:
    given: Any = body.prompt
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    return tuple(_prompt(one, engine) for one in given)


def _prompt(given: str | list[int], engine: Engine) -> Prompt:
    base = engine.base
    if isinstance(given, list):
        check_token_ids({"prompt": given}, base)
        text = base.tokenizer.decode(given, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Prompt(text, given)
    ids = engine.renderer.text_ids(given)
    if not ids:
        raise InvalidParameterError("'prompt' is empty; write what shall be continued", parameter="prompt")
    return Prompt(given, ids)
