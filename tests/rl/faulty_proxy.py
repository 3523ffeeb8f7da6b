"""A TCP proxy on loopback that forwards bytes, and does to some requests what networks do."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

_CHUNK = 1 << 16
_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Fault:
    """Happens to the first request of `method`, but for `skip` of them.

    - reset, stall: after so many bytes of the request
    - lost: the request arrives whole, its answer does not; truncated: `after` bytes of it do
    - busy: 503 in place of the server; delay: the answer comes later
    """

    kind: Literal["reset", "stall", "lost", "truncated", "busy", "delay"]
    method: bytes = b"PUT"
    after: int = 0
    skip: int = 0


@dataclass
class FaultyProxy:
    """`requests` are the first lines of all that came, `stalled` is set when one hangs."""

    target: tuple[str, int]
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in self._connections:
            connection.end()

    def _accept(self) -> None:
        self._connections: list[_Connection] = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(self, client)
            self._connections.append(connection)
            connection.start()

    def fault_for(self, line: str) -> Fault | None:
        """The fault that befalls a request; those before it count down."""
        self.requests.append(line)
        if not self.faults or not line.startswith(self.faults[0].method.decode() + " "):
            return None
        fault = self.faults.popleft()
        if fault.skip:
            self.faults.appendleft(Fault(fault.kind, fault.method, fault.after, fault.skip - 1))
            return None
        return fault


class _Connection:
    """One client's, and the server's that belongs to it."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket) -> None:
        self._proxy, self._client = proxy, client
        self._server = socket.create_connection(proxy.target)
        self._fault: Fault | None = None
        self._seen = 0

    def start(self) -> None:
        self._pumps = [threading.Thread(target=pump, daemon=True) for pump in (self._requests, self._answers)]
        for pump in self._pumps:
            pump.start()
        self._closing = threading.Thread(target=self._close, daemon=True)
        self._closing.start()

    def end(self) -> None:
        _shut(self._client)
        _shut(self._server)
        self._closing.join()

    def _close(self) -> None:
        for pump in self._pumps:
            pump.join()
        self._client.close()
        self._server.close()

    def _requests(self) -> None:
        while data := _received(self._client):
            if data[:1].isupper() and b" HTTP/1.1\r\n" in data[:8192]:
                self._fault = self._proxy.fault_for(data.split(b"\r\n", 1)[0].decode())
                self._seen = 0
            if self._breaks(data):
                break
            _send(self._server, data)
        _shut(self._server)

    def _breaks(self, data: bytes) -> bool:
        """Whether the fault has happened, and nothing more is forwarded."""
        fault = self._fault
        if fault is None:
            return False
        self._seen += len(data)
        if fault.kind == "busy":
            _send(self._client, _BUSY)
            return True
        if fault.kind not in {"reset", "stall"} or self._seen < fault.after:
            return False
        _send(self._server, data[: len(data) - (self._seen - fault.after)])
        _shut(self._server)
        if fault.kind == "reset":
            _reset_when_closed(self._client)
        else:
            self._proxy.stalled.set()
            while _received(self._client):
                pass
        return True

    def _answers(self) -> None:
        given = 0
        while data := _received(self._server):
            fault = self._fault
            if fault and data.startswith(b"HTTP/1.1 100 "):
                fault = None
            if fault and fault.kind == "lost":
                _reset_when_closed(self._client)
                break
            if fault and fault.kind == "truncated":
                _send(self._client, data[: max(0, fault.after - given)])
                given += len(data)
                if given >= fault.after:
                    break
                continue
            if fault and fault.kind == "delay":
                self._fault = None
                threading.Event().wait(0.2)
            _send(self._client, data)
        if not (self._fault and self._fault.kind == "stall"):
            _shut(self._client)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_CHUNK)
    except OSError:
        return b""


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _reset_when_closed(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
