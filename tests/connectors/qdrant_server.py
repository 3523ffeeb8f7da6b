"""The part of Qdrant's HTTP API that a source uses, answered out of an embedded collection by qdrant-client itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from qdrant_client import QdrantClient

from tests.loopback import Quiet, started


@dataclass
class QdrantServer:
    """`busy` answers are refused before one is given; `api_key` is asked for where there is one."""

    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:", force_disable_check_same_thread=True))
    api_key: str = ""
    busy: int = 0
    retry_after: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        httpd, self.url = started(_Handler, self)
        return httpd


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: QdrantServer
    lock = Lock()

    def do_GET(self) -> None:
        self._handle({})

    def do_POST(self) -> None:
        self._handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _handle(self, body: dict[str, Any]) -> None:
        state = self.state
        state.requests.append(body)
        if state.api_key and self.headers.get("api-key") != state.api_key:
            self._answer(401, {"status": {"error": "Must provide an API key"}})
        elif state.busy:
            state.busy -= 1
            self._answer(429 if state.retry_after else 503, {"status": {"error": "busy"}})
        elif self.path == "/collections":
            names = [{"name": found.name} for found in state.client.get_collections().collections]
            self._answer(200, _result({"collections": names}))
        else:
            self._of_collection(body)

    def _of_collection(self, body: dict[str, Any]) -> None:
        _, _, name, _, *what = self.path.partition("?")[0].split("/")
        with self.lock:
            if not self.state.client.collection_exists(name):
                self._answer(404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}})
            elif what == ["count"]:
                self._answer(200, _result({"count": self.state.client.count(name).count}))
            else:
                self._scroll(name, body)

    def _scroll(self, name: str, body: dict[str, Any]) -> None:
        points, offset = self.state.client.scroll(name, limit=body["limit"], offset=body.get("offset"))
        found = [{"id": point.id, "payload": point.payload} for point in points]
        self._answer(200, _result({"points": found, "next_page_offset": offset}))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        if self.state.retry_after:
            self.send_header("Retry-After", self.state.retry_after)
        self.end_headers()
        self.wfile.write(encoded)


def _result(result: dict[str, Any]) -> dict[str, Any]:
    return {"result": result, "status": "ok", "time": 0.0}
