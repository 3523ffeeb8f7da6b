"""The kind `mix`: several configured sources as one stream, each as often as its weight says.

Which source gives the next sample follows from the seed and the number of the draw alone, so the
whole state of the draw is that number. A source that ends leaves the others their shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapter_service.connectors.base import Connector, Cursor, StreamObserver
from adapter_service.connectors.spec import known_tag
from adapter_service.errors import EmptySourceError, SourceError
from adapter_service.samples import Sample

Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class MixSpec(BaseModel):
    """`sources` are names in the same file with their weights; what each gives is its own entry's affair.

    `stops: first` ends the stream when one of them has ended, so that the shares hold to its last sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: dict[str, Weight] = Field(min_length=1)
    stops: Literal["all", "first"] = "all"
    languages: list[str] = []
    max_samples: int | None = Field(default=None, ge=1)
    note: str = ""

    @field_validator("languages")
    @classmethod
    def _languages_are_known(cls, given: list[str]) -> list[str]:
        return [known_tag(language) for language in given]


class MixedConnector(Connector):
    """The samples of `parts` (name → connector); a cursor has the cursors of all of them."""

    def __init__(self, parts: Mapping[str, Connector], spec: MixSpec, *, name: str, seed: int) -> None:
        self._parts = parts
        self._spec = spec
        self._name = name
        self._seed = seed

    def check(self) -> str:
        total = sum(self._spec.sources.values())
        found = []
        for part, weight in self._spec.sources.items():
            with self._told_of(part):
                found.append(f"{part} ({weight / total:.0%}): {self._parts[part].check()}")
        return "; ".join(found)

    def stream(
        self, after: Cursor | None = None, observer: StreamObserver | None = None
    ) -> Iterator[tuple[Cursor, Sample]]:
        state = _State(**after) if after else _State()
        streams: dict[str, Iterator[tuple[Cursor, Sample]]] = {}
        heard: dict[str, _Heard] = {}
        while state.count != self._spec.max_samples and (part := self._drawn(state)):
            if part not in streams:
                heard[part] = _Heard(observer.part(part) if observer else None)
                streams[part] = self._parts[part].stream(state.cursors.get(part), heard[part])
            with self._told_of(part):
                pair = next(streams[part], None)
                if pair is None:
                    self._require_records(part, state, heard[part])
            state.draw += 1
            if pair is not None:
                state.count += 1
                state.cursors[part] = pair[0]
                yield state.cursor(), _of_part(pair[1], part)
            elif self._spec.stops == "first":
                return
            else:
                state.ended.append(part)
                del streams[part]

    def _drawn(self, state: _State) -> str | None:
        """The source whose turn it is, or None when all have ended."""
        live = {part: weight for part, weight in self._spec.sources.items() if part not in state.ended}
        digest = blake2b(f"{self._seed}:{state.draw}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64 * sum(live.values())
        for part, weight in live.items():
            place -= weight
            if place < 0:
                return part
        # What rounding left over belongs to the last.
        return next(reversed(live), None)

    def _require_records(self, part: str, state: _State, heard: _Heard) -> None:
        if part not in state.cursors and not heard.anything:
            raise EmptySourceError("it has no records; check what it names, or leave it out of the mix")

    @contextmanager
    def _told_of(self, part: str) -> Iterator[None]:
        """Errors of a source are raised with the names of mix and source before them."""
        try:
            yield
        except SourceError as error:
            error.args = (f"mix '{self._name}', source '{part}': {error}", *error.args[1:])
            raise


@dataclass(slots=True)
class _State:
    """Where the mix is: draws so far, samples so far, and where each source is or that it has ended."""

    draw: int = 0
    count: int = 0
    cursors: dict[str, Any] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The cursor that it was made of stays what it was.
        self.cursors, self.ended = dict(self.cursors), list(self.ended)

    def cursor(self) -> Cursor:
        return {"draw": self.draw, "count": self.count, "cursors": dict(self.cursors), "ended": list(self.ended)}


class _Heard:
    """Passes on what a source tells, and remembers that it told anything."""

    def __init__(self, observer: StreamObserver | None) -> None:
        self.anything = False
        self._observer = observer

    def accepted(self, language: str | None) -> None:
        self.anything = True
        if self._observer:
            self._observer.accepted(language)

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        self.anything = True
        if self._observer:
            self._observer.skipped(origin, reason, language)

    def part(self, name: str) -> StreamObserver:
        return _Heard(self._observer.part(name) if self._observer else None)


def _of_part(sample: Sample, part: str) -> Sample:
    """The sample with an origin that begins with its source: by that the tally counts it."""
    if sample.origin.startswith(f"{part}:"):
        return sample
    return replace(sample, origin=f"{part}:{sample.origin}")
