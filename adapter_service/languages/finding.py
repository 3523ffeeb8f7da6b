"""Languages by tag and by name."""

from __future__ import annotations

import re
from dataclasses import replace

from adapter_service.errors import InvalidParameterError
from adapter_service.languages.table import TABLE, Language
from adapter_service.suggestions import closest

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
    if not language:
        return None
    if script and language.script.casefold() != script:
        raise InvalidParameterError(
            f"{language.name} is written in {language.script} here, not in {script.title()}; "
            f"give a BCP-47 tag such as {language.tag!r} or {language.lang_tag!r}",
            parameter="lang",
        )
    return replace(language, region=region.upper()) if region else language


def _unknown(text: str, key: str) -> str:
    near = closest(key, _BY_KEY)
    hint = f"; did you mean '{_BY_KEY[near].name}' ({_BY_KEY[near].lang_tag})?" if near else ";"
    return (
        f"unknown language {text!r}{hint} give a BCP-47 tag such as 'hi' or 'hi-Deva-IN', "
        f"or the name of one of the {len(LANGUAGES)} known languages, such as 'Hindi'"
    )
