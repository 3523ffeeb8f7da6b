"""Writes `SOURCES.md`: where the shipped pairs come from, how many there are, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean

from adapter_service.sample_corpus.catalogue import SOURCES
from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pair
from adapter_service.sample_corpus.selection import SENTENCE_WORDS

_HEAD = """# Sources of the sample corpus

Written by `python -m adapter_service.sample_corpus.assemble`; do not edit. The texts of the licences are in
`licences/`, the notices in `NOTICE`. Each line of the corpus names its licence and its origin below. English
and translation are as their authors wrote them, in Unicode form NFC and without invisible direction marks;
long articles of the declaration are split into sentences where both sides have as many.
"""


def sources_page(pairs: list[Pair], versions: Mapping[str, str], dropped: Counter[str], size: int) -> str:
    sentences = sum(pair.words >= SENTENCE_WORDS for pair in pairs)
    total = f"{len(pairs):,} pairs, {size:,} bytes packed"
    summary = f"{total}; {sentences:,} have {SENTENCE_WORDS} English words or more.\n"
    sections = (
        _HEAD,
        summary,
        _table(("origin", "text", "package", "version", "licence", "holder"), _source_rows(versions)),
        _table(("origin", *CORPUS_LANGUAGES, "all", "mean words"), _count_rows(pairs)),
        "Left out, by the first reason that held:\n",
        _table(("reason", "pairs"), [(name, f"{count:,}") for name, count in dropped.most_common()]),
    )
    return "\n".join(sections)


def _source_rows(versions: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [(s.origin, s.title, s.package, versions[s.origin], s.licence, s.holder) for s in SOURCES]


def _count_rows(pairs: list[Pair]) -> list[tuple[str, ...]]:
    rows = [_counts(s.origin, [pair for pair in pairs if pair.origin == s.origin]) for s in SOURCES]
    return [*rows, _counts("all", pairs)]


def _counts(name: str, pairs: list[Pair]) -> tuple[str, ...]:
    by_language = Counter(pair.language for pair in pairs)
    words = f"{fmean(pair.words for pair in pairs):.1f}" if pairs else "-"
    return name, *(str(by_language[tag]) for tag in CORPUS_LANGUAGES), str(len(pairs)), words


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
