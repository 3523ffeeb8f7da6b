"""Who asks, for routes that look at whose things they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from adapter_service.auth import ADMIN, READ, allows, node_in
from adapter_service.commands.nodes import adapter_of
from adapter_service.errors import NotFoundError, UnknownAdapterError


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is for logs; `key_id` and `digest` are None where there are no keys, or none is needed."""

    key_id: str | None
    name: str
    scopes: frozenset[str]
    digest: str | None = field(default=None, repr=False)

    @property
    def node_id(self) -> str | None:
        """The node whose key this is; None of a key of the service."""
        return node_in(self.scopes)

    def may(self, scope: str) -> bool:
        return allows(self.scopes, scope)

    def sees_node(self, node_id: str | None) -> bool:
        """Whether things of this node, or with None of none, are there for the caller."""
        return self.may(READ) or (node_id is not None and node_id == self.node_id)

    def check_node(self, node_id: str | None, unknown: NotFoundError) -> None:
        """Raises:
        NotFoundError: `unknown`, exactly as for a thing that does not exist, where the caller must not see it.
        """
        if not self.sees_node(node_id):
            raise unknown

    @contextmanager
    def asking(self, adapter: str | None) -> Iterator[None]:
        """Around finding out who answers: a node's key asks for its own adapter, and hears of no other.

        Raises:
            UnknownAdapterError: in the same words whether `adapter` is another's, or nobody's, or not there yet.
        """
        if self.node_id is None:
            yield
            return
        own = adapter_of(self.node_id)
        unknown = UnknownAdapterError(f"unknown adapter {adapter!r}; with this node's key ask for {own!r}")
        if adapter is None or adapter.partition("@")[0] != own:
            raise unknown
        try:
            yield
        except UnknownAdapterError:
            raise unknown from None


# A peer on this machine while there are no keys, and whoever fetches what is there for everybody.
LOOPBACK = Caller(key_id=None, name="loopback", scopes=frozenset({ADMIN}))
ANYBODY = Caller(key_id=None, name="anybody", scopes=frozenset())


async def _caller_of(request: Request) -> Caller:
    # A plain function would wait for one of the web server's threads, and they may all be busy.
    caller: Caller = request.state.caller
    return caller


Calling = Annotated[Caller, Depends(_caller_of)]
