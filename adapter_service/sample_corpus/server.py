"""A small file server on this machine, so that `make run` streams its corpus and does not just read it."""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from adapter_service import sample_corpus

FILE_NAME = "english_indic.jsonl"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@contextmanager
def serve_sample_corpus() -> Iterator[int]:
    """Serve the sample corpus, unpacked, at `/english_indic.jsonl` in ranges; gives the port."""
    content = gzip.decompress(sample_corpus.path().read_bytes())
    server = _Server(("127.0.0.1", 0), _handler(content))
    thread = threading.Thread(target=server.serve_forever, name="sample-corpus", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that has enough hangs up; that is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(content: bytes) -> type[BaseHTTPRequestHandler]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"/{FILE_NAME}":
                self.send_error(404)
                return
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            if start >= len(content):
                self._start(416, 0, f"bytes */{len(content)}")
                return
            end = min(int(asked[2]) if asked and asked[2] else len(content) - 1, len(content) - 1)
            self._start(206 if asked else 200, end - start + 1, f"bytes {start}-{end}/{len(content)}")
            self.wfile.write(content[start : end + 1])

        def _start(self, status: int, length: int, content_range: str) -> None:
            self.send_response(status)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(length))
            if status != 200:
                self.send_header("Content-Range", content_range)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing: what is streamed is in the job's log."""

    return Handler
