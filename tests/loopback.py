"""What the servers of the tests have in common: HTTP/1.1 on a free port of loopback, told nowhere."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Quiet:
    """Goes before `BaseHTTPRequestHandler` among a handler's bases."""

    protocol_version = "HTTP/1.1"
    # Else the answers to all but the first request of a connection wait 40 ms for an acknowledgement.
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass


def started(handler: type[BaseHTTPRequestHandler], state: object) -> tuple[ThreadingHTTPServer, str]:
    """A server whose handlers find `state` in their class, and its address."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"state": state}))
    Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return httpd, f"http://127.0.0.1:{httpd.server_port}"
