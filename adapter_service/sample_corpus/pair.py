"""One English text with its translation, on the way into the sample corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

CORPUS_LANGUAGES = ("hi", "bn", "ta", "te", "gu", "mr", "ur", "pa", "kn", "ml")
"""In the order of the ten prompts."""


@dataclass(frozen=True, slots=True)
class Pair:
    """`origin` is the name of the source's entry in `catalogue.SOURCES`."""

    source: str
    target: str
    language: str
    origin: str

    @property
    def words(self) -> int:
        return len(self.source.split())

    @property
    def draw(self) -> str:
        """Stands in for chance: 64 hex digits, the same on every machine."""
        text = f"{self.language}\x1f{self.origin}\x1f{self.source}\x1f{self.target}"
        return hashlib.sha256(text.encode()).hexdigest()


Pairs = Iterator[Pair]


def join(english: dict[str, str], translated: dict[str, str], language: str, origin: str) -> Pairs:
    """Pairs of the texts that have the same identifier on both sides, in the English order."""
    for identifier, source in english.items():
        if identifier in translated:
            yield Pair(source, translated[identifier], language, origin)
