"""Languages by tag and name, and which of them a text is in."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from adapter_service import scripts
from adapter_service.errors import InvalidParameterError
from adapter_service.language_table import TABLE, Language
from adapter_service.scripts import script_share

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

__all__ = ["LANGUAGES", "Language", "detect", "find", "script_share"]


LANGUAGES: dict[str, Language] = {language.tag: language for language in TABLE}

_ALIASES = {
    "bangla": "bn",
    "farsi": "fa",
    "fil": "tl",
    "in": "id",
    "iw": "he",
    "mandarin": "zh",
    "myanmar": "my",
    "nb": "no",
    "oriya": "or",
    "panjabi": "pa",
    "simplified chinese": "zh",
    "tagalog": "tl",
    "zh-hk": "zh-Hant",
    "zh-mo": "zh-Hant",
    "zh-tw": "zh-Hant",
    "हिंदी": "hi",
}
_BY_KEY = (
    {language.native.casefold(): language for language in TABLE}
    | {language.name.casefold(): language for language in TABLE}
    | {language.tag.casefold(): language for language in TABLE}
    | {alias: LANGUAGES[tag] for alias, tag in _ALIASES.items()}
)
_TAG = re.compile(r"(?P<primary>[a-z]{2,3})(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|\d{3}))?", re.IGNORECASE)

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
_ASSAMESE_LETTERS = frozenset("ৰৱ")


def find(text: str) -> Language:
    """The language that a tag (`hi`, `hi-IN`, `hi-Deva-IN`) or a name (`Hindi`, `हिन्दी`) means, in any case.

    A region that the caller gives is kept: `ta-LK` is Tamil of Sri Lanka.

    Raises:
        InvalidParameterError: no such language, or a script that it is not written in here.
    """
    key = " ".join(text.split()).replace("_", "-").casefold()
    language = _BY_KEY.get(key) or _by_tag(key)
    if language is None:
        raise InvalidParameterError(_unknown(text, key), parameter="lang")
    return language


def _by_tag(key: str) -> Language | None:
    match = _TAG.fullmatch(key)
    if match is None:
        return None
    primary, script, region = match["primary"], match["script"], match["region"]
    language = (script and _BY_KEY.get(f"{primary}-{script}")) or _BY_KEY.get(primary)
    if not language or (script and language.script.casefold() != script):
        return None
    return replace(language, region=region.upper()) if region else language


def _unknown(text: str, key: str) -> str:
    near = difflib.get_close_matches(key, _BY_KEY, n=1, cutoff=0.6)
    hint = f"did you mean {_BY_KEY[near[0]].name!r} ({_BY_KEY[near[0]].lang_tag})? " if near else ""
    return (
        f"unknown language {text!r}; {hint}give a BCP-47 tag such as 'hi' or 'hi-Deva-IN', "
        f"or the name of one of the {len(LANGUAGES)} known languages, such as 'Hindi'"
    )


def detect(text: str, *, expected: str | None = None) -> str | None:
    """BCP-47 tag of the language of `text`, by its script where that decides; None without letters.

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
    return _by_model(text, candidates) if len(candidates) > 1 else next(iter(candidates), None)


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
