"""Reads message files in JSON: Kolibri's (flat) and Home Assistant's (nested, one file per language)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pairs, join

_KOLIBRI_FOLDERS = {
    "hi": "hi_IN", "bn": "bn_BD", "te": "te", "gu": "gu_IN", "mr": "mr", "ur": "ur_PK", "pa": "pa",
}  # fmt: skip


def read_kolibri(wheel: Path, origin: str) -> Pairs:
    """Kolibri has no Tamil, Kannada and Malayalam."""
    with zipfile.ZipFile(wheel) as archive:
        english = _kolibri_texts(archive, "en")
        for language, folder in _KOLIBRI_FOLDERS.items():
            yield from join(english, _kolibri_texts(archive, folder), language, origin)


def _kolibri_texts(archive: zipfile.ZipFile, folder: str) -> dict[str, str]:
    start = f"kolibri/locale/{folder}/LC_MESSAGES/"
    names = [n for n in archive.namelist() if n.startswith(start) and n.endswith(".json")]
    texts: dict[str, str] = {}
    for name in sorted(names):
        texts |= dict(_leaves(json.loads(archive.read(name)), ""))
    return texts


def read_home_assistant(wheel: Path, origin: str) -> Pairs:
    with zipfile.ZipFile(wheel) as archive:
        english = _home_assistant_texts(archive, "en")
        for language in CORPUS_LANGUAGES:
            yield from join(english, _home_assistant_texts(archive, language), language, origin)


def _home_assistant_texts(archive: zipfile.ZipFile, language: str) -> dict[str, str]:
    """Every file of a language, those of single panels too; their names carry a hash."""
    texts: dict[str, str] = {}
    for name in sorted(archive.namelist()):
        place = name.partition("static/translations/")[2]
        if place.endswith(".json") and place.rpartition("/")[2].startswith(f"{language}-"):
            panel = place.rpartition("/")[0]
            if place.rpartition("/")[2].count("-") == 1:
                texts |= dict(_leaves(json.loads(archive.read(name)), panel))
    return texts


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text below `node`; Kolibri wraps some in {"message": …, "context": …}."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        if isinstance(node.get("message"), str) and set(node) <= {"message", "context"}:
            yield key, node["message"]
            return
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}")
