"""Connections whose answers have to begin in time: a server that trickles its headers is given up.

The time-out of a socket counts from byte to byte, so that headers could take hours, one at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from threading import Event, Timer
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.response import HTTPResponse

_TOO_LATE = "the headers of the answer did not come in time"


def limit_headers(pools: PoolManager, seconds: float) -> None:
    """Have every connection of `pools` end with a `ReadTimeout` whose answer has not begun by then."""
    pools.pool_classes_by_scheme = {
        "http": type("HTTPConnectionPool", (HTTPConnectionPool,), {"ConnectionCls": _limited(HTTPConnection, seconds)}),
        "https": type(
            "HTTPSConnectionPool", (HTTPSConnectionPool,), {"ConnectionCls": _limited(HTTPSConnection, seconds)}
        ),
    }


def _limited(kind: type[HTTPConnection], seconds: float) -> type[HTTPConnection]:
    def getresponse(self: Any) -> HTTPResponse:
        return _in_time(partial(kind.getresponse, self), self.sock, seconds)

    return type(kind.__name__, (kind,), {"getresponse": getresponse})


def _in_time(get: Callable[[], HTTPResponse], connected: socket.socket, seconds: float) -> HTTPResponse:
    is_late = Event()
    timer = Timer(seconds, _give_up, (connected, is_late))
    timer.daemon = True
    timer.start()
    try:
        response = get()
    except (OSError, HTTPException) as error:
        if is_late.is_set():
            raise TimeoutError(_TOO_LATE) from error
        raise
    finally:
        timer.cancel()
    # The end of a connection in the middle of the headers passes for the end of the headers.
    if is_late.is_set():
        response.close()
        raise TimeoutError(_TOO_LATE)
    return response


def _give_up(connected: socket.socket, is_late: Event) -> None:
    is_late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
