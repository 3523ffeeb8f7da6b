"""Scopes: what a key may do.

    admin ─▶ app ─▶ read        each may what the next one may
    node:<id>                   what belongs to that node, and nothing else

A key is of the service or of one node: with both, nobody could say whose job it asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from adapter_service import node_ids
from adapter_service.errors import InvalidParameterError

ADMIN, APP, READ = "admin", "app", "read"
_NODE = "node:"
_WHO_MAY = {ADMIN: {ADMIN}, APP: {ADMIN, APP}, READ: {ADMIN, APP, READ}}


def allows(scopes: Collection[str], needed: str) -> bool:
    """Whether a key with `scopes` may what `needed` stands for."""
    return any(scope in scopes for scope in _WHO_MAY.get(needed, {ADMIN, needed}))


def node_scope(node_id: str) -> str:
    return f"{_NODE}{node_id}"


def node_in(scopes: Iterable[str]) -> str | None:
    """The node whose key has `scopes`; None of a key of the service."""
    return next((scope.removeprefix(_NODE) for scope in scopes if scope.startswith(_NODE)), None)


def check_scopes(scopes: Collection[str]) -> None:
    """Raises:
    InvalidParameterError: there is none, one that nobody knows, or two that do not go together.
    """
    known = "admin, app, read and node:<id>"
    if not scopes:
        raise InvalidParameterError(f"the key has no scope; give one of {known}", parameter="scope")
    if unknown := sorted(scope for scope in scopes if scope not in _WHO_MAY and not scope.startswith(_NODE)):
        raise InvalidParameterError(f"unknown scope {unknown[0]!r}; there are {known}", parameter="scope")
    # A key's scopes are kept with blanks between them, so none may have one in it.
    if (node_id := node_in(scopes)) is not None and (fault := node_ids.fault_of(node_id)) is not None:
        raise InvalidParameterError(fault, parameter="scope")
    if node_in(scopes) is not None and len(scopes) > 1:
        raise InvalidParameterError(
            f"{', '.join(sorted(scopes))} do not go together: a node's key is that node's alone; create a key for each",
            parameter="scope",
        )
