"""Answers of `POST /v1/chat/completions`: all at once, or as the events of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from adapter_service.api.chat_requests import AskedChat
from adapter_service.api.generation_streams import events
from adapter_service.api.openai_requests import finish_word, usage_of, without_end
from adapter_service.api.openai_streams import KEEPALIVE, data
from adapter_service.api.schemas.chat import (
    AnsweredCall,
    AnsweredFunction,
    AnsweredMessage,
    ChatChoice,
    ChatCompletion,
    ChoiceLogprobs,
)
from adapter_service.api.token_logprobs import chat_logprobs
from adapter_service.api.tool_calls import AnswerParts, CallPiece, Content, Part
from adapter_service.engine.generations import Choice, ChosenToken, GenerationResult, Piece

_CHUNK = "chat.completion.chunk"


def chat_completion(asked: AskedChat, result: GenerationResult) -> ChatCompletion:
    """The whole answer; to be called once, because it is recorded if that is wished."""
    choices = [_choice(asked, index, choice) for index, choice in enumerate(result.choices)]
    asked.record(result)
    return ChatCompletion(**asked.head.fields(), choices=choices, usage=usage_of([result]))


def _choice(asked: AskedChat, index: int, choice: Choice) -> ChatChoice:
    parts = AnswerParts(asked.tool_use)
    found = [*parts.push(choice.text), *parts.finish()]
    content = "".join(part.text for part in found if isinstance(part, Content))
    calls = list(_calls(found))
    return ChatChoice(
        index=index,
        message=AnsweredMessage(content=None if calls else content, tool_calls=calls or None),
        logprobs=_logprobs(asked, choice.tokens.since(0) if choice.tokens else ()),
        finish_reason=_reason(choice.finish_reason, called=parts.called),
    )


def _calls(parts: Iterable[Part]) -> Iterator[AnsweredCall]:
    pieces = [part for part in parts if isinstance(part, CallPiece)]
    for begun in pieces:
        if begun.id is not None and begun.name is not None:
            arguments = "".join(piece.arguments for piece in pieces if piece.index == begun.index)
            yield AnsweredCall(id=begun.id, function=AnsweredFunction(name=begun.name, arguments=arguments))


def _reason(reason: str, *, called: bool) -> Any:
    word = finish_word(reason)
    return "tool_calls" if called and word == "stop" else word


def _logprobs(asked: AskedChat, tokens: Sequence[ChosenToken]) -> ChoiceLogprobs | None:
    return None if asked.tokens is None else chat_logprobs(without_end(tokens, asked.ends), asked.tokens)


async def chat_events(asked: AskedChat) -> AsyncIterator[bytes]:
    """The stream but for its `[DONE]`."""
    streams = [_ChoiceStream(asked, index) for index in range(asked.count)]
    null_usage = {"usage": None} if asked.wants_usage else {}
    async for event in events(asked.generation):
        if event is None:
            yield KEEPALIVE
        elif isinstance(event, Piece):
            for choice in streams[event.index].take(event):
                yield data(asked.head.chunk(_CHUNK, [choice], **null_usage))
        else:
            asked.record(event)
            if asked.wants_usage:
                yield data(asked.head.chunk(_CHUNK, [], usage=usage_of([event]).model_dump()))


class _ChoiceStream:
    """One answer's pieces as the choices of chunks: its role, its parts, and an empty delta with the reason."""

    def __init__(self, asked: AskedChat, index: int) -> None:
        self._asked = asked
        self._index = index
        self._parts = AnswerParts(asked.tool_use)
        self._tokens: list[ChosenToken] = []
        self._begun = False

    def take(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if not self._begun:
            self._begun = True
            yield self._delta({"role": "assistant", "content": ""})
        self._tokens += piece.tokens
        parts = self._parts.push(piece.text)
        if piece.finish_reason is not None:
            parts += self._parts.finish()
        for part in parts:
            yield self._delta(_described(part), self._taken())
        if piece.finish_reason is not None:
            reason = _reason(piece.finish_reason, called=self._parts.called)
            yield self._delta({}, self._taken(), reason)

    def _taken(self) -> Sequence[ChosenToken]:
        tokens, self._tokens = self._tokens, []
        return tokens

    def _delta(
        self, delta: dict[str, Any], tokens: Sequence[ChosenToken] = (), reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = _logprobs(self._asked, tokens) if tokens else None
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs.model_dump() if logprobs and logprobs.content else None,
            "finish_reason": reason,
        }


def _described(part: Part) -> dict[str, Any]:
    if isinstance(part, Content):
        return {"content": part.text}
    function: dict[str, Any] = {"arguments": part.arguments}
    call: dict[str, Any] = {"index": part.index, "function": function}
    if part.name is not None:
        call = {"index": part.index, "id": part.id, "type": "function", "function": {"name": part.name, **function}}
    return {"tool_calls": [call]}
