"""What goes wrong with a source, one after the other: each is a clear error, or is counted and the rest is read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import zstandard

from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import (
    EmptySourceError,
    SourceError,
    SourceFormatError,
    SourceUnreachableError,
    TooManyBadRecordsError,
)
from tests.connectors.conftest import Open
from tests.connectors.server import Faults, FileServer

GOOD = b"".join(json.dumps({"text": f"line {i} of the file"}).encode() + b"\n" for i in range(100))
BOMB = (json.dumps({"text": "x" * 5000}).encode() + b"\n") * 9000
THIRTY_BAD = GOOD.replace(b"7 of", b'7" of').replace(b"8 of", b'8" of').replace(b"9 of", b'9" of')


def read(connector: Connector, *, allowed: float = 0.1) -> dict[str, Any]:
    """The counts of a whole stream, as a job records them."""
    tally = Tally("corpus", max_skipped_fraction=allowed)
    for _ in tallied(connector, tally):
        pass
    return tally.counts()


ERRORS: dict[str, tuple[str, bytes | None, Faults, type[SourceError], str]] = {
    "no such file": ("/none.jsonl", None, Faults(), SourceUnreachableError, "404.*check the address"),
    "not allowed": ("/forbidden", None, Faults(), SourceUnreachableError, "403.*check the token under `headers`"),
    "truncated gzip": ("/a.jsonl.gz", gzip.compress(GOOD)[:-20], Faults(), SourceFormatError, "cut short"),
    "truncated zstd": ("/a.jsonl.zst", zstandard.compress(GOOD)[:-20], Faults(), SourceFormatError, "cut short"),
    "truncated array": ("/a.json", b'[{"text": "a"}, {"te', Faults(), SourceFormatError, "not closed.*cut short"),
    "truncated parquet": ("/a.parquet", b"PAR1 and no end", Faults(), SourceFormatError, "cut short"),
    "wrong field name": ("/a.jsonl", b'{"body": "a"}\n' * 30, Faults(), SourceFormatError, "wanted: text; found: body"),
    "not one good record": ("/a.jsonl", b"\x00\x01\n" * 30, Faults(), SourceFormatError, "can be used, the last for"),
    "an empty source": ("/a.jsonl", b"", Faults(), EmptySourceError, r"gave no sample; 0 record\(s\) were read"),
    "30 % malformed": (
        "/a.jsonl", THIRTY_BAD, Faults(), TooManyBadRecordsError, "are bad, 10% are allowed.*not valid JSON"
    ),
    "a server that stalls": ("/a.jsonl", GOOD, Faults(is_stalling=True), SourceUnreachableError, "timed out"),
    "a server that trickles": (
        "/a.jsonl", GOOD, Faults(trickle_seconds=0.01), SourceUnreachableError, "bytes came within"
    ),
    "a server that trickles its headers": (
        "/a.jsonl", GOOD, Faults(header_trickle_seconds=0.01), SourceUnreachableError, r"timed out.*\(2 attempts\)"
    ),
    "a server that stays busy": ("/a.jsonl", GOOD, Faults(busy=99), SourceUnreachableError, r"503.*\(2 attempts\)"),
    "an endless line": ("/a.jsonl", b"x" * 65_536, Faults(is_endless=True), SourceFormatError, "line 1 has no end"),
    "an endless element": ("/a.json", b'[" ', Faults(is_endless=True), SourceFormatError, "raise `max_line_bytes`"),
    "a gzip bomb": ("/a.jsonl.gz", gzip.compress(BOMB), Faults(), SourceFormatError, "more than 300 times"),
    "a zstd bomb": ("/a.jsonl.zst", zstandard.compress(BOMB), Faults(), SourceFormatError, "more than 300 times"),
    "a redirect to a private address": (
        "/redirect", None, Faults(redirect="http://10.0.0.1/a.jsonl"), SourceUnreachableError, "private address"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_read_is_an_error_that_says_so(server: FileServer, open_http: Open, case: str) -> None:
    path, content, faults, kind, said = ERRORS[case]
    if content is not None:
        server.put(path, content)
    server.faults = replace(faults)
    options = {} if path.endswith((".gz", ".zst", ".json", ".parquet", ".jsonl")) else {"file_format": "jsonl"}
    with pytest.raises(kind, match=said):
        read(open_http(path, timeout_seconds=0.2, retry_attempts=1, max_line_bytes=100_000, **options))


def test_a_host_that_cannot_be_reached_is_named(free_port: int, open_http: Open) -> None:
    with pytest.raises(SourceUnreachableError, match=rf"127.0.0.1:{free_port}/a.jsonl cannot be read: .*refused"):
        read(open_http(url=f"http://127.0.0.1:{free_port}/a.jsonl", retry_attempts=1))


TOO_LONG = "longer than 1000 bytes (max_line_bytes)"
COUNTED: dict[str, tuple[bytes, str]] = {
    "a half line at the end": (GOOD + b'{"text": "half', "not valid JSON"),
    "bytes that are not UTF-8": (GOOD + b'{"text": "\xff\xfe"}\n', "not UTF-8"),
    "a record without the field": (GOOD + b'{"body": "a"}\n', "no field 'text'"),
    "a record that is no object": (GOOD + b"[1, 2]\n", "a list where an object is wanted"),
    "a line beyond the limit": (
        GOOD + b'{"text": "' + b"x" * 2000 + b'"}\n',
        TOO_LONG,
    ),
}


@pytest.mark.parametrize("case", COUNTED)
@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress, zstandard.compress])
def test_what_spoils_one_record_is_counted_with_its_reason(
    server: FileServer, open_http: Open, case: str, pack: Callable[[bytes], bytes]
) -> None:
    content, reason = COUNTED[case]
    suffix = {gzip.compress: ".gz", zstandard.compress: ".zst"}.get(pack, "")
    server.put(f"/a.jsonl{suffix}", pack(content))
    counts = read(open_http(f"/a.jsonl{suffix}", max_line_bytes=1000))
    assert (counts["read"], counts["used"], counts["reasons"]) == (101, 100, {reason: 1})


def test_thirty_per_cent_of_bad_records_pass_where_that_is_allowed(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", THIRTY_BAD)
    counts = read(open_http(), allowed=0.3)
    assert (counts["read"], counts["used"], counts["reasons"]) == (100, 70, {"not valid JSON": 30})
