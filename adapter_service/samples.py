"""The one record that every connector yields and that training reads.

A sample is a short conversation. What is learned is the last message, always the assistant's;
a plain text is a conversation with that one message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Role = Literal["system", "user", "assistant"]
_KEY_SPACE = 16**16
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training record.

    `language` is the BCP-47 tag of the completion, or None. `origin` says where the record lies
    (`source:file:line`), for messages to people. `metadata` is carried, never trained on; parallel
    text has `source_text` and `source_language` in it.
    """

    messages: tuple[Message, ...]
    language: str | None = None
    origin: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The last user message, or "" for plain text."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def completion(self) -> str:
        return self.messages[-1].content

    @property
    def characters(self) -> int:
        """How long the text is that is learned from."""
        return sum(len(message.content) for message in self.messages)

    @property
    def key(self) -> str:
        """Sixteen hex digits of the content alone; equal content has equal keys wherever it lies.

        For parallel text the instruction's wording is left out, so that a paraphrase of a
        held-out sample is held out too.
        """
        source_text = self.metadata.get("source_text")
        parts = (
            [str(source_text), self.language or "", self.completion]
            if source_text
            else [part for m in self.messages for part in (m.role, m.content)]
        )
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The whole of it, in ASCII; metadata that JSON does not have becomes text."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        described = json.loads(text)
        return cls(**{**described, "messages": tuple(Message(**message) for message in described["messages"])})


def is_held_out(key: str, fraction: float) -> bool:
    """Whether what has this key (`Sample.key`) belongs to the holdout, of which there is `fraction` of all."""
    return int(key, 16) < fraction * _KEY_SPACE
