"""Records of plain text: lines, or paragraphs between blank ones."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_service.connectors.files.byte_file import ByteFile
from adapter_service.connectors.files.lines import Line, split_lines
from adapter_service.connectors.files.places import Found, Place
from adapter_service.connectors.files.spec import FileSpec


def read_text(file: ByteFile, start: Place, spec: FileSpec) -> Iterator[Found]:
    lines = split_lines(file.blocks(start.byte), start, spec.max_line_bytes)
    yield from _paragraphs(lines, spec.max_line_bytes) if spec.split == "paragraph" else _each(lines)


def _each(lines: Iterator[Line]) -> Iterator[Found]:
    for line in lines:
        if line.text is None:
            yield Found(line.end, None, line.fault)
        elif line.text.strip():
            yield Found(line.end, {"text": line.text.strip()})


def _paragraphs(lines: Iterator[Line], max_bytes: int) -> Iterator[Found]:
    """Lines up to the next blank one; a faulty line spoils its paragraph."""
    paragraph = _Paragraph(max_bytes)
    for line in lines:
        if line.text is not None and not line.text.strip():
            yield from paragraph.take(line.end)
        else:
            paragraph.add(line)
    yield from paragraph.take(paragraph.end)


class _Paragraph:
    def __init__(self, max_bytes: int) -> None:
        self.end = Place()
        self._max_bytes = max_bytes
        self._lines: list[str] = []
        self._size = 0
        self._fault = ""

    def add(self, line: Line) -> None:
        self.end = line.end
        self._size += len(line.text or "")
        self._fault = self._fault or line.fault
        if self._size > self._max_bytes and not self._fault:
            self._fault = f"paragraph longer than {self._max_bytes} bytes (max_line_bytes)"
        if self._fault:
            self._lines.clear()
        else:
            self._lines.append((line.text or "").strip())

    def take(self, end: Place) -> Iterator[Found]:
        """What was collected, if anything; the next paragraph begins after `end`."""
        if self._fault:
            yield Found(end, None, self._fault)
        elif self._lines:
            yield Found(end, {"text": "\n".join(self._lines)})
        self._lines, self._size, self._fault = [], 0, ""
