"""The service's HTTP server on a thread of its own, for commands that ask it as any client would."""

from __future__ import annotations

import math
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
from adapter_service.errors import RunFailedError


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
