from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

from adapter_service.sample_corpus.assemble import Harvest, corpus_bytes
from adapter_service.sample_corpus.catalogue import SOURCES
from adapter_service.sample_corpus.pair import Pair, Pairs

KOLIBRI = next(source for source in SOURCES if source.origin == "kolibri")
PAIR = Pair("Start again", "फिर से शुरू करें", "hi", "kolibri")


def test_equal_pairs_give_equal_bytes_with_the_licence_on_every_line() -> None:
    packed = corpus_bytes([PAIR])
    assert packed == corpus_bytes([PAIR])
    assert json.loads(gzip.decompress(packed))["licence"] == "MIT"


def test_what_is_left_out_is_counted_by_reason() -> None:
    def read(_: Path, origin: str) -> Pairs:
        yield PAIR
        yield Pair("Start {name}", "शुरू {name}", "hi", origin)
        yield Pair("Start " * 30, "शुरू " * 30, "hi", origin)

    harvest = Harvest()
    harvest.add(replace(KOLIBRI, read=read), Path())
    assert harvest.pairs == [PAIR]
    assert harvest.dropped == {"placeholder or markup": 1, "too long": 1}
    assert harvest.versions == {"kolibri": KOLIBRI.version}
