from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from adapter_service import sample_corpus

Record = dict[str, Any]


@pytest.fixture(scope="session")
def corpus() -> list[Record]:
    with gzip.open(sample_corpus.path(), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
