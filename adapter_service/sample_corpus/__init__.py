"""The sample corpus that ships with the service: English beside ten Indian languages.

`SOURCES.md` in this folder says where each pair comes from and under which licence;
`python -m adapter_service.sample_corpus.assemble` builds it anew.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

FILE_NAME = "english_indic.jsonl.gz"


def path() -> Path:
    """The corpus: gzipped JSON lines with `source`, `target`, `language`, `origin`, `licence`."""
    return Path(str(files(__package__) / FILE_NAME))


def size() -> int:
    """How many pairs the corpus has."""
    with gzip.open(path(), "rb") as lines:
        return sum(1 for _ in lines)
