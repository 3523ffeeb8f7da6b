"""Reads every line of a file to train on, as a job would, and says which cannot be trained on as they are meant.

The lines are JSON objects of {"messages": [...]} or of {"prompt", "completion"}, all of one kind, each with
a "language" or without. What is learned is the last answer of each; those before it are read as its context.
What asks for anything else (tools, names, other weights) is a fault, rather than be passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_service.connectors.base import Record
from adapter_service.connectors.mapping import Mapper
from adapter_service.connectors.registry import kind_named
from adapter_service.connectors.spec import FIELDS, RecordFormat
from adapter_service.errors import InvalidSampleError, SourceError

_SHOWN = 5
_FORMATS: tuple[RecordFormat, ...] = ("chat", "completion")
_ALLOWED = " or ".join(f"{{{', '.join(FIELDS[kind])}}}" for kind in _FORMATS)
_OF_A_MESSAGE = ("role", "content", "weight")


@dataclass(slots=True)
class Findings:
    """What was found in a file: `samples` of `format`, and the first few faults of all `faulty` lines.

    `unreadable` says why it could not be read to its end.
    """

    format: RecordFormat | None = None
    samples: int = 0
    faulty: int = 0
    faults: list[str] = field(default_factory=list)
    unreadable: str | None = None

    @property
    def fault(self) -> str | None:
        """What is wrong with the file, in one sentence; None of one to train on."""
        if self.unreadable:
            return self.unreadable
        if self.faulty:
            more = f"; and {self.faulty - len(self.faults)} more" if self.faulty > len(self.faults) else ""
            return f"{self.faulty} of {self.samples + self.faulty} lines are faulty: {'; '.join(self.faults)}{more}"
        return None if self.samples else f"it has no line; one JSON object a line is wanted: {_ALLOWED}"

    def add(self, where: str, fault: str | None) -> None:
        if fault is None:
            self.samples += 1
            return
        self.faulty += 1
        if len(self.faults) < _SHOWN:
            self.faults.append(f"{where}: {fault}")


def check_file(path: Path) -> Findings:
    """Read all of it; memory does not grow with its size.

    Raises:
        OSError: it cannot be read.
    """
    findings = Findings()
    mappers = {
        kind: Mapper(kind_named("local").spec.model_validate({"path": "-", "format": kind})) for kind in _FORMATS
    }
    try:
        for record in _records(path):
            if record.fields is not None and findings.format is None:
                findings.format = "chat" if "messages" in record.fields else "completion"
            fault = _fault_of(record, mappers[findings.format or "chat"], findings.format)
            findings.add(f"line {record.cursor['line']}", fault)
    except SourceError as error:  # not a file of lines at all
        findings.unreadable = str(error)
    return findings


def _records(path: Path) -> Iterator[Record]:
    kind = kind_named("local")
    spec = kind.spec.model_validate({"path": str(path), "file_format": "jsonl", "compression": "none"})
    return kind.reader(spec, "upload").records(None)


def _fault_of(record: Record, mapper: Mapper, kind: RecordFormat | None) -> str | None:
    fields = record.fields
    if fields is None or kind is None:
        return record.fault
    if unknown := sorted(fields.keys() - FIELDS[kind].keys()):
        return f"it has {unknown[0][:40]!r}; like the first line it may have {', '.join(FIELDS[kind])}, and no other"
    try:
        mapper.sample(record)
    except InvalidSampleError as error:
        return str(error)
    return _fault_of_messages(fields["messages"]) if kind == "chat" else None


def _fault_of_messages(messages: list[Mapping[str, Any]]) -> str | None:
    """What the messages of a sample say that training would pass over."""
    for place, message in enumerate(messages):
        if unknown := sorted(message.keys() - set(_OF_A_MESSAGE)):
            return f"messages[{place}] has {unknown[0][:40]!r}, which is not trained on; {', '.join(_OF_A_MESSAGE)} are"
        is_last = place == len(messages) - 1
        if "weight" in message and message["weight"] not in ((1,) if is_last else (0,)):
            return (
                f"messages[{place}] has the weight {str(message['weight'])[:20]}; the last answer alone is learned: "
                "1 for it and 0 for all before it are possible"
            )
    return None
