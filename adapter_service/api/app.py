"""The composition root: one application from the settings, its parts started and stopped with it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from adapter_service import __version__
from adapter_service.api.access import authorize
from adapter_service.api.access_log import veil_access_log
from adapter_service.api.authentication import Authentication
from adapter_service.api.body_limit import BodyLimit
from adapter_service.api.errors import on_http_error, on_service_error, on_storage_error, on_validation_error
from adapter_service.api.job_watches import Watches
from adapter_service.api.openapi import DESCRIPTION, describe_problems
from adapter_service.api.routes import ROUTERS
from adapter_service.api.services import Services, build_services
from adapter_service.api.shutdown import told_of_the_end
from adapter_service.api.starting import address_notes, check_keys
from adapter_service.api.tracing import Tracing
from adapter_service.auth import KeyStore
from adapter_service.errors import AdapterServiceError
from adapter_service.settings import Settings, load_settings
from adapter_service.storage_faults import storage_fault

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> FastAPI:
    """The service as an ASGI application; `services` in place of those that the settings would make.

    Raises:
        SettingsError: it may be asked from other machines, and there is no API key.
    """
    services = services or build_services(settings or load_settings())
    keys = KeyStore(services.database)
    check_keys(keys, loopback_only=services.settings.security.loopback_only)
    veil_access_log()
    app = FastAPI(
        title="adapter-service",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        dependencies=[Depends(authorize)],
        openapi_url=None,  # routes/documents.py has it, and its pages
    )
    app.state.services = services
    app.state.watches = Watches(services)
    for router in ROUTERS:
        app.include_router(router)
    _add_middleware(app, services.settings, keys)
    app.add_exception_handler(AdapterServiceError, on_service_error)
    app.add_exception_handler(sqlite3.Error, on_storage_error)
    app.add_exception_handler(OSError, on_storage_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    describe_problems(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings, keys: KeyStore) -> None:
    """The one added last is outermost: every request is traced, those of strangers too."""
    app.add_middleware(BodyLimit, security=settings.security, commands=settings.commands)
    app.add_middleware(Authentication, keys=keys, security=settings.security)
    app.add_middleware(Tracing)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    watches: Watches = app.state.watches
    for note in (*services.settings.notes, *address_notes(services.settings)):
        log.warning(note, extra={"action": "settings_note"})
    try:
        await asyncio.to_thread(services.start)
    except sqlite3.Error as error:
        if (fault := storage_fault(error)) is None:
            raise
        raise fault from error

    def begin_to_stop(drain_seconds: float) -> None:
        # The running job is saved while connections still end, and none of this waits on the event loop.
        threading.Thread(target=services.begin_to_stop, args=[drain_seconds], name="stopping").start()
        watches.close()

    try:
        with told_of_the_end(begin_to_stop, drain_seconds=services.settings.serving.drain_seconds):
            yield
    finally:
        watches.close()
        await asyncio.to_thread(services.stop)
