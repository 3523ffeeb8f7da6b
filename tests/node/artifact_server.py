"""What a node fetches from, and the service it acknowledges to: both in one small HTTP server."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.loopback import Quiet, started

SIGNED = "c2lnbmVk-canary"
_JOB = re.compile(r"/api/v0/adapters/jobs/(\w+)(/acknowledge)?")
_BLOCK_BYTES = 1 << 14


@dataclass
class ArtifactServer:
    """Files by name under signed URLs, which `allow` restarting within a file.

    `cut_after` ends the next answer after so many bytes of it, `stall_after` leaves it standing there and sets
    `stalled`. `fresh` are new URLs by job, `acknowledged` the jobs of which a node said that it has them;
    `service_status` is answered in place of 200.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    allows_ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    cut_after: int | None = None
    stall_after: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    ranges: list[str | None] = field(default_factory=list)
    fresh: dict[str, str] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    service_status: int = 200
    keys: set[str | None] = field(default_factory=set)
    url: str = ""

    def add(self, name: str, content: bytes) -> str:
        """Where it can be fetched."""
        self.files[name] = content
        return f"{self.url}/{SIGNED}/{name}"


@contextmanager
def serving() -> Iterator[ArtifactServer]:
    server = ArtifactServer()
    httpd, server.url = started(_Handler, server)
    try:
        yield server
    finally:
        server.go_on.set()
        httpd.shutdown()
        httpd.server_close()


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: ArtifactServer

    def do_GET(self) -> None:
        if (job := _JOB.fullmatch(self.path)) is not None:
            self._tell_of(job[1])
        else:
            self._send_file(self.path.rpartition("/")[2])

    def do_POST(self) -> None:
        job = _JOB.fullmatch(self.path)
        self.state.keys.add(self.headers["authorization"])
        if job is None or not job[2]:
            self._answer(404)
            return
        if self.state.service_status == 200:
            self.state.acknowledged.append(job[1])
        self._answer(self.state.service_status)

    def _tell_of(self, job_id: str) -> None:
        self.state.keys.add(self.headers["authorization"])
        body = json.dumps({"job_id": job_id, "artifact_url": self.state.fresh.get(job_id)}).encode()
        self._answer(self.state.service_status, body)

    def _send_file(self, name: str) -> None:
        self.state.ranges.append(self.headers["range"])
        content = self.state.files.get(name)
        if content is None or self.state.statuses:
            self._answer(self.state.statuses.pop(0) if self.state.statuses else 404)
            return
        begin = int((self.headers["range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if not self.state.allows_ranges:
            begin = 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("content-range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("content-length", str(len(content) - begin))
        self.end_headers()
        self._send(content[begin:])

    def _send(self, content: bytes) -> None:
        cut, self.state.cut_after = self.state.cut_after, None
        stall, self.state.stall_after = self.state.stall_after, None
        if cut is not None:
            self.wfile.write(content[:cut])
            self.close_connection = True
            return
        if stall is not None:
            self.wfile.write(content[:stall])
            self.wfile.flush()
            self.state.stalled.set()
            self.state.go_on.wait(60)
            self.close_connection = True
            return
        self.wfile.write(content)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
