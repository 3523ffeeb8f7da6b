"""The first samples of a source, within bounds whatever the source holds."""

from __future__ import annotations

from collections import Counter

from adapter_service.api.schemas.sources import PreviewAnswer, SampleAnswer
from adapter_service.connectors.registry import open_source
from adapter_service.samples import Sample
from adapter_service.settings import SourceEntry

# A source whose filter lets nothing through would be read to its end.
MAX_SKIPPED = 1000


class _EnoughSeen(Exception):  # noqa: N818 - it ends a preview and is no fault
    """So many records were skipped that the preview ends with what it has."""


class _SkippedCounter:
    """A `StreamObserver` that counts reasons and gives up after `MAX_SKIPPED`."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    def accepted(self, language: str | None) -> None:
        pass

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:  # noqa: ARG002
        self.reasons[reason] += 1
        if self.reasons.total() >= MAX_SKIPPED:
            raise _EnoughSeen


def preview(entry: SourceEntry, n: int) -> PreviewAnswer:
    """At most `n` samples in the order of the source."""
    counter = _SkippedCounter()
    samples: list[Sample] = []
    try:
        for _, sample in open_source(entry).stream(observer=counter):
            samples.append(sample)
            if len(samples) == n:
                break
    except _EnoughSeen:
        pass
    shown = [SampleAnswer.of(sample) for sample in samples]
    return PreviewAnswer(source=entry.name, samples=shown, skipped=dict(counter.reasons))
