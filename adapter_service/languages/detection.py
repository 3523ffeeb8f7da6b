"""Which language a text is in: by its script where that decides, else by letters or a model."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from adapter_service.languages import scripts
from adapter_service.languages.table import TABLE

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Known, but not offered as answers of `detect` unless they are expected: py3langid has no model of
# them, or has one that takes short Hindi for Nepali and Sanskrit, which this service's users rarely write.
_ONLY_WHEN_EXPECTED = frozenset(
    {"ne", "sa", "mai", "bho", "gom", "doi", "brx", "mni", "dv", "yi", "ti", "bo", "zh-Hant"}
)

# Letters that of the languages in Arabic script only one uses; where they occur they decide,
# since a sentence of three words is too short for py3langid.
_ARABIC_HALLMARKS = {
    "ur": "ٹڈڑںےہھۓ",
    "ps": "ټډړږښۍځڅڼ",
    "sd": "ڄڃڇڊڏڌڻڳڱٻڀٺٿڦڪ",
    "ks": "ۄٲٳؠ",
    "ckb": "ڕڵێ",
    "ug": "ۇۈۋڭ",
}
# Below either, py3langid guesses.
MIN_WORDS = 3
MIN_LETTERS = 12

_ASSAMESE_LETTERS = frozenset("ৰৱ")


def detect(text: str, *, expected: str | None = None) -> str | None:
    """BCP-47 tag of the language of `text`, by its script where that decides; None without letters.

    Where several languages share a script and none of their letters tells, a model decides: of less
    than three words or twelve letters it makes anything ("x is" Maltese), so the answer is None,
    unless a language is `expected` that the text may well be in.

    Devanagari is Hindi or Marathi, and other close calls are made among the common languages of
    the script. `expected` puts one more language among them; where py3langid knows nothing of it,
    its script is the only evidence, and is enough.
    """
    script = _dominant_script(text)
    if script is None:
        return None
    candidates = {language.tag for language in TABLE if script in scripts.members(language.script)}
    if expected in candidates and expected in _ONLY_WHEN_EXPECTED and not _is_modelled(expected):
        return expected
    candidates -= _ONLY_WHEN_EXPECTED - {expected}
    if len(candidates) > 1 and (told := _by_letters(text, script)):
        return told
    # None of their letters was seen, so they are out; unless expected, for three words may lack them.
    candidates -= (_ARABIC_HALLMARKS.keys() - {"ur"}) - {expected}
    if len(candidates) < 2:
        return next(iter(candidates), None)
    return _by_model(text, candidates) if expected or _is_evidence(text) else None


def _is_evidence(text: str) -> bool:
    """Whether there is enough to tell languages of one script apart."""
    return len(text.split()) >= MIN_WORDS and scripts.count(text).total() >= MIN_LETTERS


def _dominant_script(text: str) -> str | None:
    counts = scripts.count(text)
    if not counts:
        return None
    # Japanese may have more ideographs than kana, but Chinese has no kana at all.
    kana = counts["Hira"] + counts["Kana"]
    if kana and kana + counts["Hani"] > counts.total() / 2:
        return "Hira"
    return counts.most_common(1)[0][0]


def _by_letters(text: str, script: str) -> str | None:
    if script == "Hani":
        return "zh"
    if script == "Beng":
        return "as" if _ASSAMESE_LETTERS & set(text) else "bn"
    if script == "Arab":
        counts = Counter(text)
        hits = {tag: sum(counts[letter] for letter in hall) for tag, hall in _ARABIC_HALLMARKS.items()}
        best = max(hits, key=lambda tag: hits[tag])
        return best if hits[best] else None
    return None


def _is_modelled(tag: str) -> bool:
    return tag in _model().nb_classes


def _by_model(text: str, candidates: set[str]) -> str | None:
    known = frozenset(filter(_is_modelled, candidates))
    return str(_identifier(known).classify(text)[0]) if known else None


@cache
def _model() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


@cache
def _identifier(tags: frozenset[str]) -> LanguageIdentifier:
    """One per set of candidates: restricting an identifier changes it for every thread that uses it."""
    import copy

    identifier = copy.copy(_model())
    identifier.set_languages(sorted(tags))
    return identifier
