"""From the body of `POST /v1/chat/completions` to what the engine is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adapter_service.adapter_names import BASE
from adapter_service.api.model_choice import ChosenModel, model_for
from adapter_service.api.node_chats import NodeRouter, as_trained
from adapter_service.api.openai_episodes import Recording
from adapter_service.api.openai_requests import AnswerHead, ends_of
from adapter_service.api.openai_sampling import room_for, sampling_of
from adapter_service.api.schemas.chat import ChatBody
from adapter_service.api.schemas.tools import NamedChoice
from adapter_service.api.services import Services
from adapter_service.api.token_logprobs import TokenBytes
from adapter_service.api.tool_calls import ToolUse
from adapter_service.chat_rendering import conversation_ids, template_id
from adapter_service.commands.prompting import NONE_FITS
from adapter_service.conversation import Turn
from adapter_service.engine.generations import Generation, GenerationResult
from adapter_service.engine.requests import Ask
from adapter_service.errors import UnknownAdapterError
from adapter_service.languages import Language
from adapter_service.languages.instructions import answer_language

PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class AskedChat:
    """One conversation under way; `tokens` is there when log-probabilities were asked for."""

    head: AnswerHead
    generation: Generation
    tool_use: ToolUse
    turns: tuple[Turn, ...]
    language: Language | None
    recording: Recording
    ends: frozenset[int]
    tokens: TokenBytes | None
    wants_usage: bool

    @property
    def count(self) -> int:
        return self.generation.ask.count

    def record(self, result: GenerationResult) -> None:
        """For episodes; the whole conversation too, where it is more than one message."""
        more = {"messages": [_told(turn) for turn in self.turns]} if len(self.turns) > 1 else {}
        self.recording.record(self.generation, result, last_said(self.turns), self.language, **more)


def ask_chat(body: ChatBody, services: Services, *, trace_id: str, arrived_at: float) -> AskedChat:
    """Check everything that can be checked, then put the request into the engine's queue."""
    body.check()
    turns, use = tuple(message.turn() for message in body.messages), tool_use_of(body)
    model, node = _who_answers(body, use, services)
    engine, serving = services.engine, services.settings.serving
    base, renderer = engine.base, engine.renderer
    if node is None:
        prompt_ids = conversation_ids(renderer, turns, use.tools, parallel=use.parallel)
    else:
        asked, use = as_trained(turns, use, last_said(turns), node)
        prompt_ids = conversation_ids(renderer, asked)
    field, wanted = body.wanted_tokens
    room = room_for(prompt_ids, wanted, field, serving, base)
    language = answer_language(last_said(turns), None)
    constraint = services.answer_forms.of_chat(body, use)
    if node is not None and constraint is None:
        constraint = services.answer_forms.of_calls(use.tools, NONE_FITS)
    ours = model.version is not None and use.mode == "none" and constraint is None
    sampling = replace(
        sampling_of(body, room, serving, language, ours=ours),
        constraint=constraint,
        # Clients take a call that did not run out of room for whole; the grammar says where it ends.
        stop=() if use.mode == "forced" else body.stop_texts(),
        return_tokens=bool(body.logprobs) or services.episodes.logs_generations,
        top_logprobs=body.top_logprobs or 0,
    )
    ask = Ask(prompt_ids, sampling, model.files, model.scale, body.n or 1)
    head = AnswerHead.new("chatcmpl", model, services)
    recording = Recording(services, head.id, PATH, model, template_id(renderer, use.tools), trace_id, arrived_at)
    tokens = TokenBytes(base.tokenizer) if body.logprobs else None
    ends = ends_of(engine, ask)
    return AskedChat(head, engine.submit(ask), use, turns, language, recording, ends, tokens, body.wants_usage)


def _who_answers(body: ChatBody, use: ToolUse, services: Services) -> tuple[ChosenModel, NodeRouter | None]:
    """The model, and of a node's the router by which it is asked; for a node without a live adapter the base."""
    routers = services.hub.routers
    try:
        model = model_for(body, services)
    except UnknownAdapterError:
        if (router := routers.waiting_for(body.model)) is None:
            raise
        return model_for(body.model_copy(update={"model": BASE}), services), router if use.tools else None
    return model, routers.of_version(model.version) if use.tools else None


def tool_use_of(body: ChatBody) -> ToolUse:
    """With a `tool_choice` of none the base is told of no tool at all."""
    if not body.may_call:
        return ToolUse()
    return ToolUse(
        tools=tuple(tool.tool() for tool in body.tools or ()),
        mode="forced" if body.must_call else "auto",
        named=body.tool_choice.function.name if isinstance(body.tool_choice, NamedChoice) else None,
        parallel=body.parallel_tool_calls is not False,
    )


def last_said(turns: Sequence[Turn]) -> str:
    """What the user said last."""
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), "")


def _told(turn: Turn) -> dict[str, object]:
    calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.calls]
    told = {"role": turn.role, "content": turn.content, "tool_calls": calls, "tool_call_id": turn.call_id}
    return {name: value for name, value in told.items() if value}
