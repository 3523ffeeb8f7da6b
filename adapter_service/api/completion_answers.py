"""Answers of `POST /v1/completions`: all at once, or as the events of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import count
from statistics import fmean
from typing import Any

from adapter_service.api.completion_requests import AskedCompletion, Prompt
from adapter_service.api.openai_requests import finish_word, usage_of, without_end
from adapter_service.api.openai_streams import KEEPALIVE, data, merged
from adapter_service.api.schemas.completions import Completion, CompletionChoice, CompletionLogprobs
from adapter_service.api.token_logprobs import completion_logprobs, joined, prompt_logprobs
from adapter_service.engine.generations import Choice, ChosenToken, GenerationResult, Piece

_KIND = "text_completion"


def completion(asked: AskedCompletion, results: Sequence[GenerationResult]) -> Completion:
    """The whole answer; to be called once, because it is recorded if that is wished."""
    choices, index = [], count()
    for place, result in enumerate(results):
        asked.record(place, result)
        prompt = asked.prompts[place] if asked.echo else None
        choices += [
            _choice(asked, next(index), prompt, result.prompt_trail, choice)
            for choice in _best(result.choices, asked.count)
        ]
    return Completion(**asked.head.fields(), choices=choices, usage=usage_of(results))


def _best(choices: Sequence[Choice], wanted: int) -> Sequence[Choice]:
    """Those with the highest mean log-probability best first; all, in their order, where all are wanted."""
    if len(choices) <= wanted:
        return choices
    return sorted(choices, key=_mean_logprob, reverse=True)[:wanted]


def _mean_logprob(choice: Choice) -> float:
    return fmean(choice.tokens.logprobs) if choice.tokens and choice.tokens.logprobs else float("-inf")


def _choice(
    asked: AskedCompletion, index: int, prompt: Prompt | None, trail: Sequence[ChosenToken], choice: Choice
) -> CompletionChoice:
    """`prompt` is the one that is echoed, and `trail` has its tokens but for the first."""
    text = prompt.text if prompt else ""
    logprobs = _logprobs(asked, choice.tokens.since(0) if choice.tokens else (), len(text))
    if prompt and logprobs and asked.tokens:
        logprobs = joined(prompt_logprobs(prompt.ids[0], trail, asked.tokens), logprobs)
    return CompletionChoice(
        index=index, text=text + choice.text, logprobs=logprobs, finish_reason=finish_word(choice.finish_reason)
    )


def _logprobs(asked: AskedCompletion, tokens: Sequence[ChosenToken], offset: int) -> CompletionLogprobs | None:
    return None if asked.tokens is None else completion_logprobs(without_end(tokens, asked.ends), asked.tokens, offset)


async def completion_events(asked: AskedCompletion) -> AsyncIterator[bytes]:
    """The stream but for its `[DONE]`; the answers to the second prompt have the indices after those to the first."""
    results: list[GenerationResult] = []
    offsets = [0] * (len(asked.generations) * asked.count)
    null_usage = {"usage": None} if asked.wants_usage else {}

    def chunk(index: int, text: str, tokens: Sequence[ChosenToken] = (), reason: str | None = None) -> bytes:
        logprobs = _logprobs(asked, tokens, offsets[index]) if tokens else None
        offsets[index] += sum(map(len, logprobs.tokens)) if logprobs else 0
        shown = logprobs.model_dump() if logprobs and logprobs.tokens else None
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": shown, "finish_reason": reason}
        return data(asked.head.chunk(_KIND, [choice], **null_usage))

    if asked.echo:
        for index in range(len(offsets)):
            yield chunk(index, asked.prompts[index // asked.count].text)
    async for place, event in merged(asked.generations):
        if event is None:
            yield KEEPALIVE
        elif isinstance(event, Piece):
            index = place * asked.count + event.index
            if event.text or event.tokens:
                yield chunk(index, event.text, event.tokens)
            if event.finish_reason is not None:
                yield chunk(index, "", reason=finish_word(event.finish_reason))
        else:
            asked.record(place, event)
            results.append(event)
    if asked.wants_usage:
        yield data(asked.head.chunk(_KIND, [], usage=usage_of(results).model_dump()))
