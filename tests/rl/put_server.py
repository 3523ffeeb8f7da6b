"""A small HTTP server that takes files by PUT, and as much of resumable uploads as it is told to know."""

from __future__ import annotations

import gzip
import hashlib
from base64 import b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event

from tests.loopback import Quiet, started

_BLOCK = 1 << 14


@dataclass
class PutServer:
    """Files by path. `resumable`: keeps what an interrupted PUT brought. `digests`: says what it has.

    `heads` = False takes PUT alone, as an address does that was signed for it. `compresses`: answers HEAD
    with the length of what it would send to a client that takes gzip. `cut_off` is set when a request that
    ended too early has been read to its end.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    resumable: bool = False
    digests: bool = True
    heads: bool = True
    compresses: bool = False
    token: str | None = None
    received: int = 0
    cut_off: Event = field(default_factory=Event)
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        httpd, self.url = started(_Handler, self)
        return httpd


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: PutServer

    @property
    def _name(self) -> str:
        return self.path.partition("?")[0]

    def do_HEAD(self) -> None:
        state = self.state
        if not state.heads:
            self._answer(403)
        elif self._name in state.files:
            content = state.files[self._name]
            headers = {"Repr-Digest": _digest(content)} if state.digests else {}
            compressed = state.compresses and "gzip" in self.headers.get("Accept-Encoding", "")
            length = len(gzip.compress(content) if compressed else content)
            self._answer(200, {**headers, "Content-Length": str(length)})
        elif self._name in state.parts:
            self._answer(204, {"Upload-Complete": "?0", "Upload-Offset": str(len(state.parts[self._name]))})
        else:
            self._answer(404)

    def do_GET(self) -> None:
        content = self.state.files.get(self._name)
        if content is None:
            self._answer(404)
        else:
            self._answer(200, {"Content-Length": str(len(content))}, content)

    def do_PUT(self) -> None:
        self._note()
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self.close_connection = True
            self._answer(401)
            return
        if self._name in self.state.files and self.headers.get("If-None-Match") == "*":
            self.close_connection = True
            self._answer(412)
            return
        self._take(b"")

    def do_PATCH(self) -> None:
        self._note()
        there = self.state.parts.get(self._name, b"")
        if int(self.headers["Upload-Offset"]) != len(there):
            self.close_connection = True
            self._answer(409)
            return
        self._take(there)

    def _note(self) -> None:
        self.state.headers.append({"method": self.command, **{k.lower(): v for k, v in self.headers.items()}})

    def _take(self, content: bytes) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            block = self.rfile.read1(min(left, _BLOCK))
            if not block:
                break
            left -= len(block)
            content += block
            self.state.received += len(block)
            if self.state.resumable:
                self.state.parts[self._name] = content
        if left:
            self.state.cut_off.set()
            self.close_connection = True
            return
        self.state.parts.pop(self._name, None)
        if self.headers.get("Repr-Digest") not in {None, _digest(content)}:
            self._answer(400)
            return
        self.state.files[self._name] = content
        self._answer(201)

    def _answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            if not (status == 204 and name == "Content-Length"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _digest(content: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"
