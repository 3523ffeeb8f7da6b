"""The real application behind a real uvicorn on loopback, for clients that speak HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from adapter_service.api import create_app
from adapter_service.api.services import Services


@contextmanager
def listening(services: Services) -> Iterator[str]:
    """The address of an application over `services`, which whoever calls starts and stops."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(services=services), lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
