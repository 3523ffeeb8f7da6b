"""How numbers are said in words, in the language that a node's sentences are in.

The language is the one whose words, of all in Unicode's rules for spelling numbers out, are found in the sentences most
often for the numbers that they mean. Where few are found there is none, and numbers are figures alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from adapter_service.commands.words import words

if TYPE_CHECKING:
    from unicode_rbnf import RbnfEngine

LARGEST = 100
# Different numbers that have to be found: one alone may be another language's word.
_LEAST_FOUND = 2
_HYPHENS = re.compile(r"[-\u00ad\u2010\u2011]")
# Not those of banks and officials.
_FORMS = re.compile(r"spellout-(?:numbering|cardinal)(?!.*(?:financial|formal|year)).*")


@dataclass(frozen=True, slots=True)
class NumberWords:
    """Of a language, as Unicode abbreviates it, or of none."""

    language: str | None

    @classmethod
    def of(cls, meant: Iterable[tuple[str, Collection[int]]]) -> NumberWords:
        """From sentences, each with the numbers that it means."""
        from unicode_rbnf import RbnfEngine

        texts: dict[int, list[str]] = {}
        for text, numbers in meant:
            for number in numbers:
                texts.setdefault(number, []).append(_padded(text))
        most, best = _LEAST_FOUND - 1, cls(None)
        for language in RbnfEngine.get_supported_languages():
            one = cls(language)
            found = sum(one._is_found(number, those) for number, those in texts.items())
            if found > most:
                most, best = found, one
        return best

    def said(self, number: int) -> Mapping[str, str]:
        """By form, which is a gender or a case: words of one form go with each other in a sentence.

        Hyphenated ones are there without hyphens too, as speech recognition has them.
        """
        return {} if self.language is None or not 0 < number <= LARGEST else _said(self.language, number)

    def _is_found(self, number: int, texts: Sequence[str]) -> bool:
        return any(_padded(said) in text for said in self.said(number).values() for text in texts)


def _padded(text: str) -> str:
    """So that words are found whole."""
    return f" {' '.join(words(text))} "


@cache
def _engine(language: str) -> RbnfEngine:
    from unicode_rbnf import RbnfEngine

    return RbnfEngine.for_language(language)


@cache
def _said(language: str, number: int) -> Mapping[str, str]:
    found = _engine(language).format_number(number).text_by_ruleset
    forms = {form: text for form, text in found.items() if _FORMS.fullmatch(form)}
    return MappingProxyType({**{f"{form} spaced": _HYPHENS.sub(" ", text) for form, text in forms.items()}, **forms})
