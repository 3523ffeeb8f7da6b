"""What came out of ${VAR} is shown as ${VAR}: in errors, in what `check` finds, and where samples lie.

A secret may stand anywhere in a source's options, in the path of its address for one, and every
message of the source may repeat it. A default that stands in the file itself is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote

from adapter_service.connectors.base import FILTER_REASONS, Connector, Cursor, StreamObserver
from adapter_service.errors import AdapterServiceError
from adapter_service.samples import Sample

# Shorter values are ports and switches; hidden within words, they would make messages unreadable.
_MIN_WITHIN_WORDS = 4


class Veil:
    """Hides the values of `variables` (name → value)."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        names = {form: name for name, value in variables.items() for form in _forms(value)}
        longest_first = sorted(names, key=len, reverse=True)
        self._names = names
        self._pattern = re.compile("|".join(map(_pattern_of, longest_first))) if names else None

    def over(self, text: str) -> str:
        """`text` with the name in place of each value."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"${{{self._names[match[0]]}}}", text)

    @contextmanager
    def over_errors(self) -> Iterator[None]:
        """Errors of ours are raised with the veil over their message, and without what caused them."""
        try:
            yield
        except AdapterServiceError as error:
            if self._pattern is None:
                raise
            error.args = (self.over(str(error)), *error.args[1:])
            raise error from None


class VeiledConnector(Connector):
    """A connector of which nothing but its samples' contents is told unveiled."""

    def __init__(self, inner: Connector, veil: Veil) -> None:
        self._inner = inner
        self._veil = veil

    def check(self) -> str:
        with self._veil.over_errors():
            return self._veil.over(self._inner.check())

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        told = _VeiledObserver(observer, self._veil) if observer else None
        with self._veil.over_errors():
            for cursor, sample in self._inner.stream(after, told):
                yield cursor, replace(sample, origin=self._veil.over(sample.origin))


class _VeiledObserver:
    def __init__(self, observer: StreamObserver, veil: Veil) -> None:
        self._observer = observer
        self._veil = veil

    def accepted(self, language: str | None) -> None:
        self._observer.accepted(language)

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        # The words of a filter are ours, and the tally knows them by the letter.
        shown = reason if reason in FILTER_REASONS else self._veil.over(reason)
        self._observer.skipped(self._veil.over(origin), shown, language)

    def part(self, name: str) -> StreamObserver:
        return _VeiledObserver(self._observer.part(name), self._veil)


def _forms(value: str) -> set[str]:
    """As it is, as people see it trimmed, as it stands in a URL, and as `repr` has it."""
    return {form for form in (value, value.strip(), quote(value), quote(value, safe=""), repr(value)[1:-1]) if form}


def _pattern_of(value: str) -> str:
    pattern = re.escape(value)
    return pattern if len(value) >= _MIN_WITHIN_WORDS else rf"(?<![^\W_]){pattern}(?![^\W_])"
