"""A JSONL corpus of any size that is made up as it is read: over HTTP by ranges, and as an object of S3.

Its lines are those of the sample corpus over and over, each with a number of its own, so that any
range is known from its offset and nothing lies on disk. Run as a program it serves one such file and
counts what it sends: `python -m benchmarks.made_up_file BYTES` prints its address.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import adapter_service

CORPUS = Path(adapter_service.__file__).parent / "sample_corpus" / "english_indic.jsonl.gz"
LINES = 1000
_DIGITS = 12
_PIECE_BYTES = 65_536
HTTP_PATH, BUCKET, KEY = "/corpus.jsonl", "corpus", "corpus.jsonl"
ETAG = '"made-up"'


class MadeUpFile:
    """Blocks of the same lines, but for the numbers in them."""

    def __init__(self, size: int) -> None:
        self._block, self._places = _block()
        self.block_bytes = len(self._block)
        # Whole blocks, so that the last line is whole.
        self.size = -(-size // self.block_bytes) * self.block_bytes

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        for number in range(start // self.block_bytes, -(-stop // self.block_bytes)):
            begin = number * self.block_bytes
            block = self._numbered(number)[max(0, start - begin) : stop - begin]
            yield from (block[i : i + _PIECE_BYTES] for i in range(0, len(block), _PIECE_BYTES))

    @lru_cache(maxsize=2)  # noqa: B019 - one file is made in a process
    def _numbered(self, number: int) -> bytes:
        block = bytearray(self._block)
        for i, place in enumerate(self._places):
            block[place : place + _DIGITS] = b"%0*d" % (_DIGITS, number * LINES + i)
        return bytes(block)


def _block() -> tuple[bytes, list[int]]:
    """The first lines of the sample corpus, and where the number stands in each."""
    block, places = bytearray(), []
    with gzip.open(CORPUS, "rt", encoding="utf-8") as corpus:
        for line in islice(corpus, LINES):
            record = json.loads(line)
            start = f'{{"number": "{"0" * _DIGITS}", "text": '.encode()
            places.append(len(block) + len(b'{"number": "'))
            text = json.dumps(record["target"], ensure_ascii=False)
            block += start + f'{text}, "language": "{record["language"]}"}}\n'.encode()
    return bytes(block), places


class Counts:
    """What was asked and sent since the last look."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = self._bytes = 0

    def add(self, requests: int = 0, sent: int = 0) -> None:
        with self._lock:
            self._requests += requests
            self._bytes += sent

    def taken(self) -> dict[str, int]:
        with self._lock:
            taken = {"requests": self._requests, "bytes": self._bytes}
            self._requests = self._bytes = 0
            return taken


class _Handler(BaseHTTPRequestHandler):
    file: MadeUpFile
    counts: Counts
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._headers(200, self.file.size)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/counts":
            self._send(json.dumps(self.counts.taken()).encode(), "application/json")
        elif path == "/shape":
            self._send(json.dumps({"size": self.file.size, "block": self.file.block_bytes}).encode(), "text/json")
        elif path.strip("/") == BUCKET and "list-type=2" in query:
            self.counts.add(requests=1)
            self._send(_listing(self.file.size, is_behind="start-after=" in query), "application/xml")
        elif path in {HTTP_PATH, f"/{BUCKET}/{KEY}"}:
            self.counts.add(requests=1)
            self._range()
        else:
            self._headers(404, 0)

    def _range(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size = self.file.size
        start, stop = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        given = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if asked else {}
        self._headers(206 if asked else 200, stop - start, given)
        try:
            for piece in self.file.pieces(start, stop):
                self.wfile.write(piece)
                self.counts.add(sent=len(piece))
        except OSError:
            # Whoever has enough hangs up.
            self.close_connection = True

    def _headers(self, status: int, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        shared = {"Accept-Ranges": "bytes", "ETag": ETAG, "Content-Length": str(length)}
        for name, value in {**shared, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, kind: str) -> None:
        self._headers(200, len(content), {"Content-Type": kind})
        self.wfile.write(content)


def _listing(size: int, *, is_behind: bool) -> bytes:
    item = f"<Contents><Key>{KEY}</Key><ETag>{ETAG}</ETag><Size>{size}</Size></Contents>"
    return (
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
        f"<IsTruncated>false</IsTruncated>{'' if is_behind else item}</ListBucketResult>"
    ).encode()


def serve(size: int) -> None:
    """Serve until stdin closes."""

    class Handler(_Handler):
        file = MadeUpFile(size)
        counts = Counts()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of clients that hang up between requests."""

    httpd = Server(("127.0.0.1", 0), Handler)
    Thread(target=httpd.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{httpd.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
