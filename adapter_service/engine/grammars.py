"""Grammars that an answer can be held to, in the words of llguidance; `GrammarCompiler` makes constraints of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter_service.errors import InvalidParameterError

# A slash that nothing escapes, with what stands before it.
_SLASH = re.compile(r"((?<!\\)(?:\\\\)*)/")
# Blanks where json.dumps has them, and no others. Of 8 prompts to SmolLM2-135M-Instruct (greedy, 90 tokens, 4 schemas),
# 8 were answered to the end in this form, in 38 tokens on the average; with any blanks 6, in 50, and more tokens to
# indent with; with none at all 5, with wrong values in two, as the base has seldom seen it. Any number of blanks can
# also go on for ever.
JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# All that means something in a regular expression outside of brackets.
_REGEX_SIGNS = frozenset(r"\.+*?()|[]{}^$#&-~")


@dataclass(frozen=True, slots=True)
class Grammar:
    """`source` is llguidance's form, `lark` its Lark text, for servers of others that have llguidance too.

    `parameter` is the field of the request that errors are about.
    """

    source: str
    parameter: str
    lark: str


def json_schema_grammar(schema: Mapping[str, Any], *, parameter: str = "json_schema") -> Grammar:
    """JSON that the schema describes, its properties in the schema's order.

    Blanks are those of `JSON_FORM`; what the schema says in `x-guidance`, llguidance's options, goes before that: for
    an adapter that was trained to write `{"a":1}`, `{"item_separator": ",", "key_separator": ":"}`.
    """
    return lark_grammar(f"start: {json_rule(schema)}", parameter=parameter)


def json_object_grammar(*, parameter: str = "response_format") -> Grammar:
    """Any JSON object."""
    return json_schema_grammar({"type": "object"}, parameter=parameter)


def regex_grammar(pattern: str, *, parameter: str = "regex") -> Grammar:
    """The whole answer matches `pattern`, in the syntax of Rust's regex crate: no look-around, no back references."""
    from llguidance import LLMatcher

    escaped = _SLASH.sub(r"\1\/", pattern)
    return Grammar(str(LLMatcher.grammar_from_regex(pattern)), parameter, f"start: /{escaped}/")


def lark_grammar(text: str, *, parameter: str = "grammar") -> Grammar:
    """A Lark grammar in llguidance's dialect, beginning with the rule `start`; its lexer takes the longest match."""
    from llguidance import LLMatcher

    return Grammar(str(LLMatcher.grammar_from_lark(text)), parameter, text)


def choice_grammar(choices: Sequence[str], *, parameter: str = "choice") -> Grammar:
    """One of `choices` and nothing else.

    Raises:
        InvalidParameterError: there are none.
    """
    if not choices:
        raise InvalidParameterError(
            f"{parameter} is an empty list; give at least one text to choose", parameter=parameter
        )
    # Not as strings of Lark: one that is a special token's name would be that token there, and no text.
    escaped = ("".join(f"\\{sign}" if sign in _REGEX_SIGNS else sign for sign in text) for text in choices)
    return regex_grammar("|".join(escaped), parameter=parameter)


def json_rule(schema: Mapping[str, Any]) -> str:
    """Part of a Lark rule: JSON that the schema describes; `#/…` in it is of this schema alone."""
    form = schema.get("x-guidance", {})
    form = {**JSON_FORM, **form} if isinstance(form, Mapping) else form
    return f"%json {json.dumps({**schema, 'x-guidance': form})}"
