"""A child process that says what llama.cpp's server says, as it was recorded; `real_llama.py` is for the real one.

Its answers are which adapters they have and how much of each, such as `0:1.0`. One of the adapters is `bad` keeps it
from starting; a prompt of one token ends the process in the middle of an answer, one of two tokens never ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(sys.stdin.readline())
    time.sleep(float(os.environ.get("LLAMA_DOUBLE_SECONDS", "0")))
    for path in job["adapters"]:
        if not Path(path).exists() or Path(path).stem == "bad":
            sys.stderr.write(f"failed to load {Path(path).name}\n")
            sys.exit(1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.job = job  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("a line of somebody else\n" + json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"# TYPE llamacpp:x counter\nllamacpp:x 1\n")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {self.server.job['api_key']}":  # type: ignore[attr-defined]
            self.send_error(401)
            return
        if body["temperature"] > 9:
            self._whole(400, {"error": {"code": 400, "message": "temperature is too high"}})
            return
        self.send_response(200)
        self.end_headers()
        text = " ".join(f"{one['id']}:{one['scale']}" for one in body["lora"]) or "none"
        for place, character in enumerate(text, 1):
            if place == 3 and len(body["prompt"]) == 1:
                os._exit(7)
            self._event({"content": character, "tokens": [5], "stop": False, "tokens_predicted": place})
        for place in count(len(text) + 1) if len(body["prompt"]) == 2 else ():
            time.sleep(0.01)
            self._event({"content": ".", "tokens": [5], "stop": False, "tokens_predicted": place})
        self._event({"content": "", "tokens": [], "stop": True, "stop_type": "eos", "tokens_predicted": len(text) + 1})

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _whole(self, status: int, data: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())


if __name__ == "__main__":
    main()
