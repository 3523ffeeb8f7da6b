"""The first samples of a source, within bounds whatever the source holds."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from adapter_service.api.schemas.sources import PreviewAnswer, SampleAnswer
from adapter_service.connectors.registry import open_source
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.samples import Sample
from adapter_service.settings import SourceEntry

# A source whose filter lets nothing through would be read to its end.
MAX_SKIPPED = 1000


class _EnoughSeen(Exception):  # noqa: N818 - it ends a preview and is no fault
    """So many records were skipped that the preview ends with what it has."""


class _PreviewTally(Tally):
    """Allows every record to be bad, and gives up after `MAX_SKIPPED`."""

    def __init__(self, source: str) -> None:
        super().__init__(source, max_skipped_fraction=1.0)

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        super().skipped(origin, reason, language)
        if self.counts()["skipped"] >= MAX_SKIPPED:
            raise _EnoughSeen


def preview(entry: SourceEntry, n: int) -> PreviewAnswer:
    """At most `n` samples in the order of the source.

    Raises:
        SourceError: as in a job; a source that gives nothing is one too.
    """
    tally = _PreviewTally(entry.name)
    samples: list[Sample] = []
    with suppress(_EnoughSeen):
        # What came before the end of it stays in the list.
        samples.extend(sample for _, sample in islice(tallied(open_source(entry), tally), n))
    shown = [SampleAnswer.of(sample) for sample in samples]
    return PreviewAnswer(source=entry.name, samples=shown, skipped=tally.counts()["reasons"])
