"""Counts what a stream gave and what it did not, and fails the job past the configured fraction."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from adapter_service.connectors.base import FILTER_REASONS, Connector, Cursor
from adapter_service.errors import EmptySourceError, TooManyBadRecordsError
from adapter_service.samples import Sample

logger = logging.getLogger(__name__)

MIN_RECORDS = 20
MAX_LOGGED = 5
MAX_REASONS = 30
_MORE_REASONS = "other reasons"
_NO_LANGUAGE = "unknown"


class Tally:
    """The observer that a job gives to its stream; `counts()` goes into the job's record.

    `read` is all records that were looked at, `used` the samples that left the stream: behind a
    shuffle it lags. A language filter skips records without making them bad.
    """

    def __init__(self, source: str, *, max_skipped_fraction: float) -> None:
        self.read = 0
        self.used = 0
        self._source = source
        self._max_fraction = max_skipped_fraction
        self._reasons: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._skipped_languages: Counter[str] = Counter()
        self._parts: dict[str, Tally] = {}
        self._logged = 0

    def go_on_from(self, counts: Mapping[str, Any]) -> None:
        """Go on counting from what an earlier attempt had counted at the place where the stream is resumed."""
        self.read, self.used = counts["read"], counts["used"]
        self._reasons.update(counts["reasons"])
        self._languages.update(counts["languages"])
        self._skipped_languages.update(counts["skipped_languages"])
        for name, of_part in counts.get("sources", {}).items():
            self.part(name).go_on_from(of_part)

    @property
    def bad(self) -> int:
        return sum(n for reason, n in self._reasons.items() if reason not in FILTER_REASONS)

    def counts(self) -> dict[str, Any]:
        """For the job's record; `sources` has the same for each source of a mix."""
        counts = {
            "read": self.read,
            "used": self.used,
            "skipped": self._reasons.total(),
            "reasons": dict(self._reasons.most_common()),
            "languages": dict(self._languages.most_common()),
            "skipped_languages": dict(self._skipped_languages.most_common()),
        }
        return counts | ({"sources": {n: part.counts() for n, part in self._parts.items()}} if self._parts else {})

    def part(self, name: str) -> Tally:
        """The tally of one source of a mix; what it is told counts for the whole as well."""
        if name not in self._parts:
            self._parts[name] = _PartTally(self, name, max_skipped_fraction=self._max_fraction)
        return self._parts[name]

    def accepted(self, language: str | None) -> None:  # noqa: ARG002 (counted when it is used)
        self.read += 1

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        """Count one record.

        Raises:
            TooManyBadRecordsError: the bad ones are more than the fraction, of twenty or more.
        """
        self._count(reason, language)
        if reason in FILTER_REASONS:
            return
        self._log(origin, reason, language)
        if self.read >= MIN_RECORDS:
            self._check_fraction()

    def _count(self, reason: str, language: str | None) -> None:
        self.read += 1
        is_known = reason in self._reasons or len(self._reasons) < MAX_REASONS or reason in FILTER_REASONS
        self._reasons[reason if is_known else _MORE_REASONS] += 1
        self._skipped_languages[language or _NO_LANGUAGE] += 1

    def use(self, sample: Sample) -> None:
        self.used += 1
        self._languages[sample.language or _NO_LANGUAGE] += 1
        # A sample of a mix has the name of its source before the first colon of its origin.
        if self._parts and (part := self._parts.get(sample.origin.partition(":")[0])):
            part.use(sample)

    def finish(self) -> None:
        """Judge the whole stream, once it has ended.

        Raises:
            EmptySourceError: nothing came of it.
            TooManyBadRecordsError: as in `skipped`, however few the records.
        """
        for part in self._parts.values():
            part._check_fraction()
        self._check_fraction()
        if self.used == 0:
            raise EmptySourceError(
                f"source '{self._source}' gave no sample; {self.read} record(s) were read{self._why()}; "
                "check what it names, its `format` and `fields`, and the language filter"
            )

    def _check_fraction(self) -> None:
        if self.bad > self._max_fraction * self.read:
            raise TooManyBadRecordsError(
                f"source '{self._source}': {self.bad} of the {self.read} records read are bad, "
                f"{self._max_fraction:.0%} are allowed (max_skipped_fraction){self._why()}; "
                "mend the source, or allow more"
            )

    def _why(self) -> str:
        reasons = [f"{n} × {reason}" for reason, n in self._reasons.most_common(5)]
        return f"; skipped: {', '.join(reasons)}" if reasons else ""

    def _log(self, origin: str, reason: str, language: str | None) -> None:
        self._logged += 1
        if self._logged <= MAX_LOGGED:
            logger.warning("skipped %s: %s (language %s)", origin, reason, language or "unknown")
        if self._logged == MAX_LOGGED:
            logger.warning("source %s: further skipped records are counted, not logged", self._source)


class _PartTally(Tally):
    """Counts for the whole first, which logs, may end the stream, and looks whether to go on."""

    def __init__(self, whole: Tally, source: str, *, max_skipped_fraction: float) -> None:
        super().__init__(source, max_skipped_fraction=max_skipped_fraction)
        self._whole = whole

    def accepted(self, language: str | None) -> None:
        super().accepted(language)
        self._whole.accepted(language)

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        self._count(reason, language)
        self._whole.skipped(origin, reason, language)
        if self.read >= MIN_RECORDS:
            self._check_fraction()


def tallied(connector: Connector, tally: Tally, after: Cursor | None = None) -> Iterator[tuple[Cursor, Sample]]:
    """The connector's stream, counted; the errors of `Tally.finish` come when it ends by itself."""
    for cursor, sample in connector.stream(after, tally):
        tally.use(sample)
        yield cursor, sample
    if after is None or tally.used:
        tally.finish()
