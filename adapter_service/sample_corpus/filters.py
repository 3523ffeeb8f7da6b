"""What makes a pair unfit for the sample corpus, each with a name that the report counts by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from adapter_service.languages import LANGUAGES
from adapter_service.languages.scripts import script_share
from adapter_service.sample_corpus.pair import Pair
from adapter_service.sample_corpus.reserved import is_reserved_in_some_form

MIN_SCRIPT_SHARE = 0.85
MAX_LENGTH_RATIO = 4.0

# Direction marks, soft hyphens and byte-order marks carry no text; joiners (U+200C, U+200D) do.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff"))
_TYPOGRAPHY = {ord("\u2010"): "-", ord("\u2011"): "-", ord("\u00a0"): " ", ord("\u202f"): " "}
_PLACEHOLDER = re.compile(r"[{}<>$@#|•\\_~=\[\]*^]|%|&\w|\n")
_URL = re.compile(r"://|www\.|\w\.(?:com|org|net|html?|php|js|json|ya?ml|conf)\b", re.IGNORECASE)
_TECHNICAL = re.compile(r"[A-Z]{2}|[a-z][A-Z]|\d[A-Za-z]|[A-Za-z]\d|--|\w/\w|\w\.\w|\w:\w")
_LETTER = re.compile(r"[A-Za-z]{2}")


def clean(pair: Pair) -> Pair:
    """The same texts in one Unicode form, on one line, without invisible characters."""
    return replace(pair, source=_tidy(pair.source), target=_tidy(pair.target))


def _tidy(text: str) -> str:
    text = unicodedata.normalize("NFC", text.translate(_INVISIBLE).translate(_TYPOGRAPHY))
    return re.sub(r"[ \t]+", " ", text).strip().strip('"“”').strip()


def fault(raw: Pair, pair: Pair) -> str | None:
    """Why the cleaned `pair` is left out, or None; `raw` is the same pair as it was read."""
    if is_reserved_in_some_form(raw.source):
        return "reserved"
    return next((name for name, holds in _FAULTS.items() if holds(pair)), None)


def _is_outside_its_script(pair: Pair) -> bool:
    return script_share(pair.target, LANGUAGES[pair.language].script) < MIN_SCRIPT_SHARE


def _is_not_english(pair: Pair) -> bool:
    return script_share(pair.source, "Latn") < 1 or not pair.source.isprintable()


def _ratio(pair: Pair) -> float:
    lengths = len(pair.source), len(pair.target)
    return max(lengths) / min(lengths)


def _numbers(text: str) -> list[str]:
    """The numbers in a text in any script's digits, in any order."""
    digits = "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text)
    return sorted(re.findall(r"\d+", digits))


_FAULTS: dict[str, Callable[[Pair], bool]] = {
    "reserved": lambda pair: is_reserved_in_some_form(pair.source),
    "no text": lambda pair: not pair.target or not _LETTER.search(pair.source),
    "placeholder or markup": lambda pair: bool(_PLACEHOLDER.search(pair.source + pair.target)),
    "address": lambda pair: bool(_URL.search(pair.source + pair.target)),
    "technical": lambda pair: bool(_TECHNICAL.search(pair.source)),
    "not in the script": _is_outside_its_script,
    "source not English": _is_not_english,
    "lengths apart": lambda pair: _ratio(pair) > MAX_LENGTH_RATIO,
    "numbers differ": lambda pair: _numbers(pair.source) != _numbers(pair.target),
}
