"""The form that an answer must have, as a grammar for the engine; compiled here, on the request's own thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

from adapter_service.api.closed_schemas import closed
from adapter_service.api.schemas.chat import ChatBody
from adapter_service.api.schemas.completions import CompletionBody
from adapter_service.api.schemas.openai import SamplingFields
from adapter_service.api.schemas.tools import JsonObjectFormat, JsonSchemaFormat
from adapter_service.api.tool_calls import ToolUse
from adapter_service.conversation import Tool
from adapter_service.engine.constraints import Constraint
from adapter_service.engine.engine import Engine
from adapter_service.engine.grammar_compiler import GrammarCompiler
from adapter_service.engine.grammars import (
    Grammar,
    choice_grammar,
    json_object_grammar,
    json_schema_grammar,
    regex_grammar,
)
from adapter_service.engine.tool_calls import call_or_text_grammar, tool_call_grammar

# Of nodes with many commands each sentence has candidates of its own.
_MOST_KEPT = 128


class AnswerForms:
    """For the base of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Constraint] = OrderedDict()

    def of_chat(self, body: ChatBody, use: ToolUse) -> Constraint | None:
        """What the answer to `body` is held to; None where it is free.

        Raises:
            InvalidParameterError: a form that cannot be followed.
        """
        return self._compiled(_of_tools(use) or _of_response_format(body) or _of_structured_outputs(body))

    def of_completion(self, body: CompletionBody) -> Constraint | None:
        """The same for text to be continued."""
        return self._compiled(_of_structured_outputs(body))

    def of_calls(self, functions: Sequence[Tool], otherwise: str) -> Constraint:
        """One call of `functions`, or exactly the text `otherwise`; the latest ones are kept compiled."""
        grammar = call_or_text_grammar(functions, otherwise)
        with self._lock:
            if (kept := self._kept.get(grammar.source)) is not None:
                self._kept.move_to_end(grammar.source)
                return kept
        made = self._compiler.compile(grammar)
        with self._lock:
            self._kept[grammar.source] = made
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def _compiled(self, grammar: Grammar | None) -> Constraint | None:
        return None if grammar is None else self._compiler.compile(grammar)

    @cached_property
    def _compiler(self) -> GrammarCompiler:
        return GrammarCompiler(self._engine.base.tokenizer)


def _of_tools(use: ToolUse) -> Grammar | None:
    if use.mode != "forced":
        return None
    tools = [Tool(tool.name, closed(tool.parameters), tool.description) for tool in use.tools]
    return tool_call_grammar(tools, use.named, parallel=use.parallel)


def _of_response_format(body: ChatBody) -> Grammar | None:
    form = body.response_format
    if isinstance(form, JsonSchemaFormat) and form.json_schema.json_schema is not None:
        return json_schema_grammar(closed(form.json_schema.json_schema), parameter="response_format")
    if isinstance(form, JsonObjectFormat | JsonSchemaFormat):
        return json_object_grammar()
    return None


def _of_structured_outputs(body: SamplingFields) -> Grammar | None:
    form = body.structured_outputs
    if form is None:
        return None
    if form.regex is not None:
        return regex_grammar(form.regex, parameter="structured_outputs.regex")
    if form.choice is not None:
        return choice_grammar(form.choice, parameter="structured_outputs.choice")
    return json_schema_grammar(closed(form.json_schema or {}), parameter="structured_outputs.json")
