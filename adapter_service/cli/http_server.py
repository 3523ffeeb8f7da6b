"""The service's HTTP server on a thread of its own, for commands that ask it as any client would."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from adapter_service.api.app import create_app
from adapter_service.api.services import Services
from adapter_service.api.shutdown import GRACE_SECONDS
from adapter_service.api.starting import check_address
from adapter_service.auth import KeyStore
from adapter_service.errors import RunFailedError, SettingsError
from adapter_service.settings import Settings


def listening_at(settings: Settings, host: str | None = None, port: int | None = None) -> Settings:
    """`settings` with the address that is listened on, which signed URLs name; a port of 0 becomes one that is free."""
    serving = settings.serving
    host, port = serving.host if host is None else host, serving.port if port is None else port
    at = serving.model_copy(update={"host": host, "port": port or _free_port(host)})
    return settings.model_copy(update={"serving": at})


@contextmanager
def http_server(services: Services) -> Iterator[str]:
    """Serve until the end of the block; gives the address once it answers.

    Raises:
        RunFailedError: it could not be started.
    """
    serving = services.settings.serving
    check_address(KeyStore(services.database), serving.host)
    config = uvicorn.Config(
        create_app(services=services),
        host=serving.host,
        port=serving.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=math.ceil(serving.drain_seconds) + GRACE_SECONDS,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="http", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RunFailedError("the server could not be started; service.log in the state folder has the reason")
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]  # serving.port may be 0: a free one
        yield f"http://{serving.host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _free_port(host: str) -> int:
    """Somebody else may take it before it is listened on; the service then says so, and does not start."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        with socket.create_server(address[:2], family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise SettingsError(f"{host!r} is no address to listen on here: {error}") from error
