"""Reads Django's gettext catalogues (`.po`), which carry the English text as the key."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pair, Pairs

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FIELD = re.compile(r'^(msgid|msgstr|msgctxt|msgid_plural|msgstr\[\d\]) (".*")$')


def read_django(wheel: Path, origin: str) -> Pairs:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            language = name.partition("/locale/")[2].partition("/")[0]
            if language in CORPUS_LANGUAGES and name.endswith(".po"):
                for source, target in _messages(archive.read(name).decode("utf-8")):
                    yield Pair(source, target, language, origin)


def _messages(content: str) -> Iterator[tuple[str, str]]:
    """(English, translation) of the messages that are neither fuzzy nor plural nor obsolete."""
    for block in content.split("\n\n"):
        if "#, fuzzy" in block or "msgid_plural" in block or "#~" in block:
            continue
        fields = _fields(block)
        if fields.get("msgid") and fields.get("msgstr"):
            yield fields["msgid"], fields["msgstr"]


def _fields(block: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    current = ""
    for line in block.splitlines():
        if found := _FIELD.match(line):
            current = found[1]
            fields[current] = _unquoted(found[2])
        elif current and line.startswith('"'):
            fields[current] += _unquoted(line)
    return fields


def _unquoted(text: str) -> str:
    inner = "".join(_QUOTED.findall(text))
    return inner.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
