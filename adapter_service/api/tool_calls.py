"""The text of an answer, told apart into content and calls of tools while it comes."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adapter_service.conversation import Tool
from adapter_service.engine.tool_calls import parse_tool_calls
from adapter_service.errors import ToolCallFormatError


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an answer may do: say something (`none`), choose (`auto`), or only call (`forced`, perhaps one by name).

    `arguments`, where it is there, makes of a call's name and arguments the JSON that the client gets.
    """

    tools: tuple[Tool, ...] = ()
    mode: Literal["none", "auto", "forced"] = "none"
    named: str | None = None
    parallel: bool = False
    arguments: Callable[[str, Mapping[str, Any]], str] | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.named} if self.named else {tool.name for tool in self.tools})


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """The `index`-th call of an answer: first its name and no arguments, then pieces of them."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Part = Content | CallPiece


class AnswerParts:
    """Takes one answer's text piece by piece; what it gives is certain.

    Where a call may come, text is held back only while it may still be one: it is a call if the whole of it is.
    Where a call must come, the grammar sees to it, and its arguments are given on as they come; unless something is
    still to be made of them.
    """

    def __init__(self, use: ToolUse) -> None:
        self._use = use
        scans = use.mode == "forced" and use.arguments is None
        self._held: str | None = "" if use.mode != "none" and not scans else None
        self._scanner = _CallScanner() if scans else None
        self._before = ("<tool_call>", "[") if use.parallel else ("<tool_call>",)
        self.called = False

    def push(self, text: str) -> list[Part]:
        if self._scanner is not None:
            return self._told(self._scanner.push(text))
        if self._held is None:
            return [Content(text)] if text else []
        self._held += text
        if self._may_be_a_call(self._held):
            return []
        held, self._held = self._held, None
        return [Content(held)]

    def finish(self) -> list[Part]:
        """The rest, when no text follows."""
        held, self._held = self._held, None
        if not held:
            return []
        return self._told(self._calls_in(held)) or [Content(held)]

    def _told(self, pieces: Iterator[CallPiece]) -> list[Part]:
        parts: list[Part] = list(pieces)
        self.called |= bool(parts)
        return parts

    def _may_be_a_call(self, text: str) -> bool:
        squeezed = re.sub(r"\s+", "", text)
        openings = [f'{{"name":"{name}","arguments":{{' for name in self._use.names] + ['{"arguments":{']
        openings += [f"{before}{opening}" for before in self._before for opening in openings]
        return any(opening.startswith(squeezed) or squeezed.startswith(opening) for opening in openings)

    def _calls_in(self, text: str) -> Iterator[CallPiece]:
        """The calls that the whole of `text` is; none if it is not, or of what may not be called."""
        try:
            calls = [call for one in _unwrapped(text) for call in parse_tool_calls(one)]
        except ToolCallFormatError:
            return
        if {call.name for call in calls} - self._use.names or (len(calls) > 1 and not self._use.parallel):
            return
        for index, call in enumerate(calls):
            yield CallPiece(index, _new_id(), call.name)
            made = self._use.arguments
            yield CallPiece(index, arguments=made(call.name, call.arguments) if made else call.arguments_json)


# As Qwen's chat template and its relatives ask for calls: each in tags of its own.
_WRAPPED = re.compile(r"\s*<tool_call>(.*?)</tool_call>\s*", re.DOTALL)


def _unwrapped(text: str) -> list[str]:
    """What is in tags, if nothing is beside them; else the whole text."""
    return [text] if _WRAPPED.sub("", text) else _WRAPPED.findall(text)


_OPENING = re.compile(r'[\s\[,}]*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


class _CallScanner:
    """Reads calls as the grammar of `engine.tool_calls` writes them: the name, then the arguments, one or a list."""

    def __init__(self) -> None:
        self._text = ""
        self._index = -1
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> Iterator[CallPiece]:
        self._text += text
        while self._text:
            if self._depth == 0:
                found = _OPENING.match(self._text)
                if found is None:
                    return
                self._index += 1
                self._text = self._text[found.end() :]
                yield CallPiece(self._index, _new_id(), json.loads(found["name"]))
            end = self._end_of_arguments()
            piece, self._text = self._text[:end], self._text[end:]
            yield CallPiece(self._index, arguments=piece)

    def _end_of_arguments(self) -> int:
        """How much of the text is arguments; the depth is 0 afterwards where they end in it."""
        for place, letter in enumerate(self._text):
            if self._in_string:
                self._in_string = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return len(self._text)


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"
