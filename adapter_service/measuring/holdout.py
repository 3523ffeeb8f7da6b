"""A source's held-out samples, read again: what a smoke run and an evaluation may ask about."""

from __future__ import annotations

from adapter_service.connectors.opening import configured
from adapter_service.connectors.registry import open_source
from adapter_service.errors import EmptySourceError
from adapter_service.languages import find
from adapter_service.measuring.smoke import Case
from adapter_service.samples import Sample, is_held_out
from adapter_service.settings import Settings


def split_source(settings: Settings, source: str) -> tuple[list[Sample], list[Sample]]:
    """(held out, the rest) of a configured source, by the rule that training jobs go by.

    Raises:
        UnknownSourceError: not configured.
        EmptySourceError: the holdout has nothing.
    """
    held_out: list[Sample] = []
    rest: list[Sample] = []
    for _, sample in open_source(configured(settings, source), languages=settings.data.languages).stream():
        (held_out if is_held_out(sample.key, settings.gate.holdout_fraction) else rest).append(sample)
    if not held_out:
        raise EmptySourceError(f"source {source!r} has no held-out sample; raise gate.holdout_fraction")
    return held_out, rest


def draw_cases(held_out: list[Sample]) -> list[Case]:
    """One held-out prompt for each language, the one whose key comes first: the same at every call."""
    first: dict[str, Sample] = {}
    for sample in sorted(held_out, key=lambda sample: sample.key):
        if sample.language and sample.prompt:
            first.setdefault(sample.language, sample)
    return [Case(s.prompt, find(tag), s.completion, "holdout") for tag, s in sorted(first.items())]
