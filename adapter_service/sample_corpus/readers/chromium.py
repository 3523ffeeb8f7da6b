"""Reads Chromium's language packs (`*.pak`, version 5): numbered texts, one file per language."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

from adapter_service.errors import SourceFormatError
from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pairs, join

_VERSION, _UTF8 = 5, 1


def read(folder: Path, origin: str) -> Pairs:
    """Punjabi is not among Chromium's languages."""
    english = _texts(next(folder.rglob("en-GB.pak")))
    for language in CORPUS_LANGUAGES:
        for pack in folder.rglob(f"{language}.pak"):
            yield from join(english, _texts(pack), language, origin)


def _texts(pack: Path) -> dict[str, str]:
    data = pack.read_bytes()
    version, encoding, count, _ = struct.unpack_from("<IB3xHH", data)
    if (version, encoding) != (_VERSION, _UTF8):
        raise SourceFormatError(f"{pack.name}: version {version}, encoding {encoding}; 5 and 1 (UTF-8) are read")
    entries = [struct.unpack_from("<HI", data, 12 + 6 * n) for n in range(count + 1)]
    return {
        str(identifier): data[start:end].decode("utf-8", errors="replace")
        for (identifier, start), (_, end) in pairwise(entries)
    }
