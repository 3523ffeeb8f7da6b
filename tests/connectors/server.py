"""A small file server on loopback that can do ranges, and everything that goes wrong with them."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.loopback import Quiet, started


@dataclass
class Faults:
    """`drops` and `busy` count down: that many answers are cut short or refused before one is whole."""

    drops: int = 0
    busy: int = 0
    ranges: bool = True
    tells_total: bool = True
    redirect: str = ""
    trickle_seconds: float = 0.0
    header_trickle_seconds: float = 0.0
    etag: str = '"v1"'
    empty_answers: bool = False
    is_stalling: bool = False
    retry_after: str = ""
    is_endless: bool = False


@dataclass
class FileServer:
    """Files by path (`/a.jsonl`), and what was asked for them."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[dict[str, str]] = field(default_factory=list)
    content_type: str = "application/octet-stream"
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        httpd, self.url = started(_Handler, self)
        return httpd

    def put(self, path: str, content: bytes) -> str:
        self.files[path] = content
        return self.url + path


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: FileServer

    def do_GET(self) -> None:
        faults = self.state.faults
        self.state.requests.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        if self.path.startswith("/forbidden"):
            self._answer(403)
        elif faults.redirect and self.path == "/redirect":
            self._answer(302, {"Location": faults.redirect}, b"moved")
        elif self.path not in self.state.files:
            self._answer(404)
        elif faults.busy:
            faults.busy -= 1
            self._answer(503, {"Retry-After": faults.retry_after} if faults.retry_after else {})
        elif faults.is_endless:
            self._endless(self.state.files[self.path])
        else:
            self._file(self.state.files[self.path])

    def _file(self, content: bytes) -> None:
        faults = self.state.faults
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", faults.etag) == faults.etag
        headers = {"ETag": faults.etag, "Content-Type": self.state.content_type} if faults.etag else {}
        if not (faults.ranges and asked and is_same):
            self._answer(200, headers, content)
            return
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
        if start >= len(content):
            self._answer(416, headers | ({"Content-Range": f"bytes */{len(content)}"} if faults.tells_total else {}))
        else:
            given = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            self._answer(206, {**headers, **given}, content[start:stop])

    def _answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        faults = self.state.faults
        if faults.header_trickle_seconds:
            self._trickle(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 60_000, faults.header_trickle_seconds)
            return
        self.send_response(status)
        if faults.empty_answers:
            content = b""
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if faults.drops and content:
            faults.drops -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif faults.is_stalling and content:
            self.wfile.write(content[: len(content) // 2])
            # The rest never comes; the client hangs up.
            self.rfile.read(1)
            self.close_connection = True
        elif faults.trickle_seconds:
            self._trickle(content, faults.trickle_seconds)
        else:
            self.wfile.write(content)

    def _endless(self, content: bytes) -> None:
        """The content again and again, without a length or an end, until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(content)

    def _trickle(self, content: bytes, seconds: float) -> None:
        try:
            for i in range(len(content)):
                self.wfile.write(content[i : i + 1])
                time.sleep(seconds)
        except OSError:
            self.close_connection = True
