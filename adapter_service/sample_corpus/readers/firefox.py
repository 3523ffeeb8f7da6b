"""Reads Firefox's language packs: Fluent (`.ftl`) and `.properties` files inside an add-on."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from adapter_service.sample_corpus.pair import Pairs, join

_TAGS = {
    "hi": "hi-IN", "bn": "bn", "ta": "ta", "te": "te", "gu": "gu-IN",
    "mr": "mr", "ur": "ur", "pa": "pa-IN", "kn": "kn",
}  # fmt: skip
_ENGLISH = "en-GB"
_FLUENT_ENTRY = re.compile(r"^(-?[a-zA-Z][\w-]*) = ?(.*)$|^ +\.([\w-]+) = ?(.*)$")
_PROPERTY = re.compile(r"^([^#!=\s][^=]*?)\s*=\s*(.*)$")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_BRANDS = {
    "{ -brand-short-name }": "Firefox",
    "{ -brand-shorter-name }": "Firefox",
    "{ -brand-product-name }": "Firefox",
    "{ -vendor-short-name }": "Mozilla",
}
# An access key or a keyboard shortcut is a letter to press, not a text.
_NO_TEXT = re.compile(r"accesskey|commandkey|shortcut|\.key$|\.style$|\.width$", re.IGNORECASE)


def read(folder: Path, origin: str) -> Pairs:
    """Firefox has no Malayalam language pack."""
    english = _texts(folder, _ENGLISH)
    for language, tag in _TAGS.items():
        yield from join(english, _texts(folder, tag), language, origin)


def _texts(folder: Path, tag: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    with zipfile.ZipFile(next(folder.rglob(f"langpack-{tag}@*.xpi"))) as pack:
        for name in pack.namelist():
            parse = {"ftl": _fluent, "properties": _properties}.get(name.rpartition(".")[2])
            if parse:
                place = name.replace(f"/{tag}/", "/")
                found = parse(pack.read(name).decode("utf-8", errors="replace"))
                texts |= {f"{place}:{key}": text for key, text in found.items() if not _NO_TEXT.search(key)}
    return texts


def _fluent(content: str) -> dict[str, str]:
    """Texts on one line or on indented lines; selectors stay as they are and are filtered out later."""
    texts: dict[str, str] = {}
    message = key = ""
    for line in content.splitlines():
        if found := _FLUENT_ENTRY.match(line):
            message = found[1] or message
            key = found[1] or f"{message}.{found[3]}"
            texts[key] = found[2] if found[1] else found[4]
        elif key and line.startswith(" "):
            texts[key] = f"{texts[key]} {line.strip()}".strip()
        elif line.strip():
            key = ""
    return {key: _with_brands(text) for key, text in texts.items()}


def _with_brands(text: str) -> str:
    for reference, name in _BRANDS.items():
        text = text.replace(reference, name)
    return text


def _properties(content: str) -> dict[str, str]:
    found = (_PROPERTY.match(line) for line in content.splitlines())
    return {entry[1]: _ESCAPE.sub(lambda code: chr(int(code[1], 16)), entry[2]) for entry in found if entry}
