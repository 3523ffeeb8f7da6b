"""Which pairs are shipped: the same for everybody, balanced over languages, sentences before words."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

from adapter_service.languages import LANGUAGES
from adapter_service.languages.scripts import script_share
from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pair

PAIRS_PER_LANGUAGE = 1400
SENTENCE_WORDS = 4

# Share of each origin in a language's pairs; what an origin cannot fill goes to the others.
SHARES = {
    "chromium": 0.27,
    "android": 0.22,
    "kolibri": 0.14,
    "firefox": 0.08,
    "home-assistant": 0.04,
    "cldr-annotations": 0.13,
    "cldr-names": 0.02,
    "cldr-dates": 0.03,
    "django": 0.03,
    "udhr": 0.04,
}
_PHRASE_SHARE = 0.12  # of an origin's pairs: shorter than a sentence
_WORD_LISTS = frozenset({"cldr-annotations", "cldr-names", "cldr-dates"})
# Interfaces have headings and menu entries too; a sentence that speaks to somebody teaches more.
_SPOKEN = re.compile(
    r"\b(you|your|i|my|me|we|our|us|they|he|she|it|this|please|what|how|where|when|who|why|is|are|was|do|does"
    r"|did|don't|can|can't|will|want|need|have|has)\b",
    re.IGNORECASE,
)


def select(pairs: Iterable[Pair], per_language: int = PAIRS_PER_LANGUAGE) -> list[Pair]:
    """The shipped pairs in the shipped order, mixed over languages and origins."""
    by_language: dict[str, list[Pair]] = defaultdict(list)
    for pair in without_duplicates(pairs):
        by_language[pair.language].append(pair)
    chosen = [pair for language in CORPUS_LANGUAGES for pair in _first(by_language[language], per_language)]
    return sorted(chosen, key=_place)


def without_duplicates(pairs: Iterable[Pair]) -> Iterable[Pair]:
    """One translation per English text and language, the first; case and marks do not make a new text."""
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        key = pair.language, "".join(c for c in pair.source.lower() if c.isalnum())
        if key not in seen:
            seen.add(key)
            yield pair


def _first(pairs: list[Pair], count: int) -> list[Pair]:
    """The first `count` when every bucket is spread evenly by its share, as cards are dealt."""
    buckets: dict[tuple[str, bool], list[Pair]] = defaultdict(list)
    for pair in pairs:
        buckets[pair.origin, pair.words >= SENTENCE_WORDS].append(pair)
    dealt = [
        ((rank + 0.5) / _share(origin, sentences=sentences), pair.draw, pair)
        for (origin, sentences), bucket in buckets.items()
        for rank, pair in enumerate(sorted(bucket, key=_preference))
    ]
    return [pair for _, _, pair in sorted(dealt, key=lambda entry: entry[:2])[:count]]


def _share(origin: str, *, sentences: bool) -> float:
    if origin in _WORD_LISTS:
        return SHARES[origin] / 2
    return SHARES[origin] * (1 - _PHRASE_SHARE if sentences else _PHRASE_SHARE)


def _preference(pair: Pair) -> tuple[bool, bool, str]:
    """Wholly in the language's script first (no brand names), then spoken sentences, then by hash."""
    mixed = script_share(pair.target, LANGUAGES[pair.language].script) < 1
    return mixed, not _SPOKEN.search(pair.source), pair.draw


def _place(pair: Pair) -> str:
    return hashlib.sha256(f"order {pair.draw}".encode()).hexdigest()
