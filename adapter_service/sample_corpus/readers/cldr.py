"""Reads the Unicode Common Locale Data Repository: names of emoji, places, languages and times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pairs, join

_NAME_FILES = {"languages.json": "languages", "territories.json": "territories", "scripts.json": "scripts"}
_EMOJI_BLOCKS = (range(0x1F300, 0x1F700), range(0x1F900, 0x1FB00))
Reader = Callable[[Path], dict[str, str]]


def read_annotations(folder: Path, origin: str) -> Pairs:
    yield from _read(folder / "package" / "annotations", _annotations, origin)


def read_names(folder: Path, origin: str) -> Pairs:
    yield from _read(folder / "package" / "main", _names, origin)


def read_dates(folder: Path, origin: str) -> Pairs:
    yield from _read(folder / "package" / "main", _dates, origin)


def _read(root: Path, reader: Reader, origin: str) -> Pairs:
    english = reader(root / "en")
    for language in CORPUS_LANGUAGES:
        yield from join(english, reader(root / language), language, origin)


def _annotations(folder: Path) -> dict[str, str]:
    """The name that is read aloud ("tts") for each emoji; arrows and geometric signs name nothing."""
    entries = json.loads((folder / "annotations.json").read_bytes())["annotations"]["annotations"]
    return {sign: entry["tts"][0] for sign, entry in entries.items() if entry.get("tts") and _is_emoji(sign)}


def _is_emoji(sign: str) -> bool:
    return any(ord(sign[0]) in block for block in _EMOJI_BLOCKS)


def _names(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file_name, section in _NAME_FILES.items():
        root = json.loads((folder / file_name).read_bytes())["main"][folder.name]
        entries = root["localeDisplayNames"][section]
        texts |= {f"{section}.{key}": text for key, text in entries.items() if "-alt-" not in key}
    return texts


def _dates(folder: Path) -> dict[str, str]:
    """Months, days, periods of the day and phrases such as "last week" in full words."""
    fields = json.loads((folder / "dateFields.json").read_bytes())["main"][folder.name]["dates"]["fields"]
    calendar = json.loads((folder / "ca-gregorian.json").read_bytes())["main"][folder.name]
    gregorian = calendar["dates"]["calendars"]["gregorian"]
    texts = {f"fields.{key}": text for key, text in _leaves(fields) if "-narrow" not in key and "-short" not in key}
    for part in ("months", "days", "quarters", "dayPeriods"):
        texts |= {f"{part}.{key}": text for key, text in _leaves(gregorian[part]["stand-alone"]["wide"])}
    return texts


def _leaves(node: dict[str, Any], key: str = "") -> Iterator[tuple[str, str]]:
    for name, child in node.items():
        if isinstance(child, str):
            yield f"{key}.{name}", child
        else:
            yield from _leaves(child, f"{key}.{name}")
