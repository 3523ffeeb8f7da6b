"""Records become samples here: field mapping, language filter and limit around any reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from adapter_service.connectors.base import (
    FILTER_REASONS,
    NO_LANGUAGE,
    OTHER_LANGUAGE,
    Connector,
    Cursor,
    Record,
    RecordReader,
    StreamObserver,
)
from adapter_service.connectors.mapping import Mapper
from adapter_service.connectors.spec import SourceSpec
from adapter_service.errors import EmptySourceError, InvalidSampleError, SourceFormatError
from adapter_service.languages import find
from adapter_service.samples import Sample

# With this many records from the start that cannot be used, the configuration is wrong and not they.
UNUSABLE_AFTER = 20


class SampleStream(Connector):
    """The samples of one source, without shuffling; cursors are the reader's and a count."""

    def __init__(self, reader: RecordReader, spec: SourceSpec, *, name: str, languages: Sequence[str] = ()) -> None:
        self._reader = reader
        self._mapper = Mapper(spec)
        self._name = name
        self._languages = frozenset(find(language).tag for language in (languages or spec.languages))
        self._max_samples = spec.max_samples

    def check(self) -> str:
        found = self._reader.check()
        faults = _Unusable(self._mapper, self._name)
        for record in islice(self._reader.records(None), UNUSABLE_AFTER):
            try:
                sample = self._mapper.sample(record)
            except InvalidSampleError as error:
                faults.add(record, str(error))
            else:
                return f"{found}; first sample: {sample.completion[:60]!r} ({sample.language or NO_LANGUAGE})"
        faults.at_end()
        raise EmptySourceError(f"source '{self._name}' has no records; check what it names")

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        count = after["count"] if after else 0
        if self._max_samples is not None and count >= self._max_samples:
            return
        for record, sample in self._samples(after["at"] if after else None, observer):
            count += 1
            yield {"at": dict(record.cursor), "count": count}, sample
            if count == self._max_samples:
                return

    def _samples(self, after: Cursor | None, observer: StreamObserver | None) -> Iterator[tuple[Record, Sample]]:
        # A stream that is resumed has had good records, or has told of the bad ones already.
        unusable = _Unusable(self._mapper, self._name) if after is None else None
        for record in self._reader.records(after):
            try:
                sample = self._mapper.sample(record)
            except InvalidSampleError as error:
                if unusable and str(error) not in FILTER_REASONS:
                    # Before the observer, who may end the stream without knowing the fields.
                    unusable.add(record, str(error))
                _skip(observer, record.origin, str(error), self._mapper.language_of(record))
                continue
            unusable = None
            if reason := self._filtered(sample):
                _skip(observer, record.origin, reason, sample.language)
                continue
            if observer:
                observer.accepted(sample.language)
            yield record, sample
        if unusable:
            unusable.at_end()

    def _filtered(self, sample: Sample) -> str | None:
        if not self._languages or sample.language in self._languages:
            return None
        return NO_LANGUAGE if sample.language is None else OTHER_LANGUAGE


def _skip(observer: StreamObserver | None, origin: str, reason: str, language: str | None) -> None:
    if observer:
        observer.skipped(origin, reason, language)


class _Unusable:
    """Tells a source that is not what the configuration says from a bad record here and there."""

    def __init__(self, mapper: Mapper, name: str) -> None:
        self._records = 0
        self._last = ""
        self._mapper = mapper
        self._name = name
        self._missing: set[str | None] = set()
        self._found: list[str] = []

    def add(self, record: Record, fault: str) -> None:
        """Take note of one more bad record, up to the first good one.

        Raises:
            SourceFormatError: not one of the first twenty can be used.
        """
        self._records += 1
        self._last = fault
        self._missing.add(None if record.fields is None else self._mapper.missing(record.fields))
        if record.fields is not None and not self._found:
            # Half a character in a name must not make the message one that cannot be stored.
            self._found = [str(name).encode(errors="replace").decode() for name in record.fields][:20]
        if self._records == UNUSABLE_AFTER:
            self.at_end()

    def at_end(self) -> None:
        """Judge those that there were; a source without records is nobody's fault here.

        Raises:
            SourceFormatError: there were some, and none can be used.
        """
        if not self._records:
            return
        if len(self._missing) == 1 and (name := next(iter(self._missing))):
            raise SourceFormatError(
                f"source '{self._name}': none of the first {self._records} record(s) has the field '{name}'; "
                f"wanted: {self._mapper.wanted()}; found: {', '.join(self._found) or 'no field at all'}. "
                f"Give the right name under `fields`"
            )
        raise SourceFormatError(
            f"source '{self._name}': none of the first {self._records} record(s) can be used, "
            f"the last for: {self._last}; check `format`, `fields` and `file_format`"
        )
