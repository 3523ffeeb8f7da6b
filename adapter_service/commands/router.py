"""A node's commands, ready to route sentences: what is asked of a model, in which form it answers, what that means.

The prompt is made by the very functions that made the training samples.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.dated_tools import said_in_keys, with_dates
from adapter_service.commands.grounding import Grounding
from adapter_service.commands.learned import learned_of
from adapter_service.commands.prompting import Context, prompt_of
from adapter_service.commands.schema import Command
from adapter_service.commands.shortlist import Embed, Shortlist
from adapter_service.commands.tools import tool_of
from adapter_service.conversation import Tool
from adapter_service.errors import InvalidParameterError
from adapter_service.samples import Message


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked, and the functions that it may answer with, in the form that it is held to."""

    messages: tuple[Message, ...]
    functions: tuple[Tool, ...]


class Router:
    """Of one node's commands, by the candidates that training had.

    With `embed` an answer is held to those of them that a sentence can mean.
    """

    def __init__(self, commands: Sequence[Command], *, holdout_fraction: float, embed: Embed | None = None) -> None:
        self._by_name = {command.command_name: command for command in commands}
        learned = learned_of(commands, holdout_fraction)
        self._rooms, self._retriever = learned.rooms, learned.retriever
        self._grounding = Grounding.of(commands, learned.dataset.training)
        self._calls, self._embed = learned.calls, embed
        self._lock = threading.Lock()
        self._shortlist: Shortlist | None = None

    def question(self, text: str, context: Context) -> Question:
        offered = self._retriever.candidates(text)
        functions = self.likely([said_in_keys(tool_of(command)) for command in offered], text)
        return Question(prompt_of(offered, text, context), functions)

    def candidates(self, tools: Sequence[Tool], text: str) -> tuple[Tool, ...]:
        """Of the functions that somebody offers those that `text` may mean; what is no command of the node's stays."""
        likely = {command.command_name for command in self._retriever.candidates(text)}
        return tuple(tool for tool in tools if tool.name in likely or tool.name not in self._by_name)

    def likely(self, tools: Sequence[Tool], text: str) -> tuple[Tool, ...]:
        """Of `tools` those that `text` can mean; all, where it can mean none of them."""
        shortlist = self._made_shortlist() if text.strip() else None
        return tuple(tools) if shortlist is None else shortlist.of([text], [tools])[0]

    def _made_shortlist(self) -> Shortlist | None:
        """Made by whoever asks first, which takes a second or two; the others wait for it."""
        if not self._embed or not self._calls:
            return None
        with self._lock:
            if self._shortlist is None:
                self._shortlist = Shortlist(self._calls, self._embed)
            return self._shortlist

    def grounded(self, name: str, given: Mapping[str, Any], text: str, context: Context) -> dict[str, Any]:
        """Of `given`, what `text` bears out; as it is for what is no command of the node's."""
        known = {"rooms": context.rooms or self._rooms, "devices": context.devices}
        return self._grounding.grounded(name, given, text, known)

    def arguments(self, name: str, given: Mapping[str, Any], now: datetime, zone: ZoneInfo) -> dict[str, Any]:
        """`given` with its date keys as ISO 8601: what it is to be called with.

        Raises:
            InvalidParameterError: an argument that is none of the command's, or not of its type.
        """
        command = self._by_name[name]
        for key, value in given.items():
            parameter = command.parameter(key)
            if parameter is None or not parameter.type.holds(value):
                wanted = parameter.type.meant if parameter else "no such argument"
                raise InvalidParameterError(f"{name} was to be called with {key} = {value!r}; it takes {wanted}")
        return with_dates(tool_of(command), given, now, zone)
