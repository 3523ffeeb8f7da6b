"""Who a request comes from, before anything else looks at it; and how many requests they may make.

    no keys                     peers on this machine, without being asked (`peers.py`)
    keys                        whoever has one that is neither revoked nor expired
    security.loopback_only      in either case peers on this machine alone

A key comes as `Authorization: Bearer ask_…` or as `X-API-Key: ask_…`, and is never logged.
"""

from __future__ import annotations

import sqlite3

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adapter_service.api.access import is_for_everybody
from adapter_service.api.callers import ANYBODY, LOOPBACK, Caller
from adapter_service.api.errors import error_response
from adapter_service.api.peers import refusal
from adapter_service.api.rate_limit import MovingWindow, network_of
from adapter_service.auth import Key, KeyStore
from adapter_service.auth.keys import PREFIX
from adapter_service.errors import AdapterServiceError, NotAuthenticatedError
from adapter_service.settings import SecuritySettings
from adapter_service.storage_faults import storage_fault

# A right key is taken whatever was tried before from the same address: nobody can lock others out by guessing.
FAILURES_PER_MINUTE = 30
_HOW = (
    "send one as 'Authorization: Bearer ask_…'; on the machine of the service, "
    "`adapter-service keys create NAME --scope app` makes one"
)


class Authentication:
    """Pure ASGI; `scope["state"]["caller"]` is who asks. Others get 401 with the reason, or 429."""

    def __init__(self, app: ASGIApp, keys: KeyStore, security: SecuritySettings) -> None:
        self._app = app
        self._keys = keys
        self._loopback_only = security.loopback_only
        self._requests = MovingWindow(security.requests_per_minute) if security.requests_per_minute else None
        self._failures = MovingWindow(FAILURES_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = self._caller(scope)
        except (AdapterServiceError, sqlite3.Error) as error:
            fault = storage_fault(error) if isinstance(error, sqlite3.Error) else error
            if fault is None:
                raise
            await _refuse(fault, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        reason = refusal(scope)
        if reason is not None and self._loopback_only:
            raise NotAuthenticatedError(reason)
        for_everybody = scope["type"] == "http" and is_for_everybody(scope)
        if for_everybody and reason is None:
            return ANYBODY
        secret = _secret_in(Headers(scope=scope))
        key = self._keys.find(secret) if secret and not for_everybody else None
        if key is not None and key.active(self._keys.now()):
            self._count(f"key {key.id}", f"requests with the key {key.name!r}")
            return Caller(key.id, key.name, key.scopes, key.digest)
        if self._keys.in_use():
            if for_everybody:
                self._count(_peer(scope), "requests from your address")
                return ANYBODY
            raise self._unknown(scope, secret, key)
        if reason is not None:
            raise NotAuthenticatedError(reason)
        if secret and secret.startswith(PREFIX) and not for_everybody:
            raise self._unknown(scope, secret, key)
        return LOOPBACK

    def _count(self, name: str, what: str) -> None:
        if self._requests is not None:
            self._requests.hit(name, what)

    def _unknown(self, scope: Scope, secret: str | None, key: Key | None) -> NotAuthenticatedError:
        self._failures.hit(_peer(scope), "requests without a key that is good from your address")
        if secret is None:
            return NotAuthenticatedError(f"this service wants an API key; {_HOW}")
        if key is None:
            return NotAuthenticatedError(f"nobody has the API key that came with the request; {_HOW}")
        what = "was revoked" if key.revoked_at is not None else "has expired"
        return NotAuthenticatedError(f"the API key {key.name!r} {what}; {_HOW}")


def _secret_in(headers: Headers) -> str | None:
    """The key that came with a request; None of none, and of credentials of another kind."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.casefold() == "bearer":
        return credentials.strip() or None
    return headers.get("x-api-key")


def _peer(scope: Scope) -> str:
    return network_of((scope.get("client") or ("an unknown address",))[0])


async def _refuse(error: AdapterServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error_response(scope, error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
