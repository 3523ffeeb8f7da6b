"""Makes a sample of a record: plain text, prompt and completion, chat messages, parallel text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from adapter_service import languages
from adapter_service.connectors.base import Record
from adapter_service.connectors.spec import FIELDS, SourceSpec, names_of
from adapter_service.errors import InvalidParameterError, InvalidSampleError
from adapter_service.languages import instructions
from adapter_service.samples import Message, Role, Sample

_ABSENT = object()
# Half of a character's pair: JSON can say it ("\ud83d"), UTF-8 and tokenizers cannot.
_SURROGATE = re.compile("[\ud800-\udfff]")


class Mapper:
    """The field mapping of one source."""

    def __init__(self, spec: SourceSpec) -> None:
        self._format = spec.format
        self._names = names_of(spec)
        self._defaults = spec.defaults
        self._make = getattr(self, f"_{spec.format}")

    def missing(self, fields: Mapping[str, Any]) -> str | None:
        """The name of the first field that the record ought to have and has not."""
        for field, is_needed in FIELDS[self._format].items():
            name = self._names[field]
            if is_needed and field not in self._defaults and look_up(fields, name) in (_ABSENT, None):
                return str(name)
        return None

    def wanted(self) -> str:
        return ", ".join(self._names[field] for field, is_needed in FIELDS[self._format].items() if is_needed)

    def sample(self, record: Record) -> Sample:
        """The sample that the record stands for.

        Raises:
            InvalidSampleError: the fault of the record, a field is missing, or holds something else.
        """
        if record.fields is None:
            raise InvalidSampleError(record.fault)
        if (name := self.missing(record.fields)) is not None:
            raise InvalidSampleError(f"no field '{name}'")
        sample: Sample = self._make(record.fields, record.origin)
        return sample

    def language_of(self, record: Record) -> str | None:
        """The language of a record of which no sample can be made, as far as it tells it."""
        try:
            return self._language(record.fields or {}, "language")
        except InvalidSampleError:
            return None

    def _text(self, fields: Mapping[str, Any], origin: str) -> Sample:
        return Sample((Message("assistant", self._words(fields, "text")),), self._language(fields, "language"), origin)

    def _completion(self, fields: Mapping[str, Any], origin: str) -> Sample:
        prompt, completion = self._words(fields, "prompt"), self._words(fields, "completion")
        turns = (Message("user", prompt), Message("assistant", completion))
        return Sample(turns, self._language(fields, "language"), origin)

    def _chat(self, fields: Mapping[str, Any], origin: str) -> Sample:
        turns = _messages(look_up(fields, self._names["messages"]), self._names["messages"])
        return Sample(turns, self._language(fields, "language"), origin)

    def _parallel(self, fields: Mapping[str, Any], origin: str) -> Sample:
        source, target = self._words(fields, "source"), self._words(fields, "target")
        language = _known(self._words(fields, "language"))
        source_tag = self._language(fields, "source_language")
        metadata = {"source_text": source, "source_language": source_tag}
        variant = f"{language.tag}\x1f{source}\x1f{target}"
        # The paraphrases may say "from English", which is true of English alone.
        prompt = (
            instructions.translation(source, language, variant=variant)
            if source_tag == "en"
            else instructions.canonical(source, language)
        )
        return Sample((Message("user", prompt), Message("assistant", target)), language.tag, origin, metadata)

    def _words(self, fields: Mapping[str, Any], field: str) -> str:
        name = self._names[field]
        value = look_up(fields, name)
        if value in (_ABSENT, None):
            value = self._defaults[field]
        if not isinstance(value, str):
            raise InvalidSampleError(f"field '{name}' is a {type(value).__name__}, not text")
        if not value.strip():
            raise InvalidSampleError(f"field '{name}' is empty")
        return _whole(value.strip(), name)

    def _language(self, fields: Mapping[str, Any], field: str) -> str | None:
        """The tag of a field that may be missing; one that names no known language is a fault."""
        value = look_up(fields, self._names[field])
        value = self._defaults.get(field) if value in (_ABSENT, None, "") else value
        return None if value is None else _known(value).tag


def look_up(fields: Mapping[str, Any], name: str) -> Any:
    """The value under `name`, or under its parts between dots one within the other."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _known(value: object) -> languages.Language:
    try:
        return languages.find(str(value))
    except InvalidParameterError as error:
        raise InvalidSampleError(f"unknown language {str(value)[:20]!r}") from error


def _messages(value: object, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidSampleError(f"field '{name}' is not a list of messages")
    turns = tuple(_message(item, name) for item in value)
    if turns[-1].role != "assistant":
        raise InvalidSampleError(f"the last of '{name}' is the {turns[-1].role}'s, not the assistant's")
    return turns


def _message(item: object, name: str) -> Message:
    role = item.get("role") if isinstance(item, Mapping) else None
    content = item.get("content") if isinstance(item, Mapping) else None
    for known in get_args(Role):
        if role == known and isinstance(content, str) and content.strip():
            return Message(known, _whole(content.strip(), name))
    raise InvalidSampleError(f"a message in '{name}' without a role of {', '.join(get_args(Role))} or without content")


def _whole(text: str, name: str) -> str:
    if _SURROGATE.search(text):
        raise InvalidSampleError(f"field '{name}' has half of a character")
    return text
