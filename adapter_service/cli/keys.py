"""`adapter-service keys create | list | revoke`: who may ask the service, which sees at once what changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from adapter_service.auth import Key, KeyStore
from adapter_service.cli.terminal import Config, Sources, one_clear_line, plain_console
from adapter_service.database import Database
from adapter_service.settings import load_settings

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)
console = plain_console()

_SCOPES = "admin (everything), app (read, generate, train), read, or node:<id> (what is that node's)."
_MOST_DAYS = 36_500


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for; logs and lists call it so.")],
    scope: Annotated[list[str], typer.Option("--scope", help=_SCOPES)],
    expires_days: Annotated[int | None, typer.Option(min=1, max=_MOST_DAYS, help="Good for so many days.")] = None,
    config: Config = None,
    sources: Sources = None,
) -> None:
    """Create a key and show it, this once: alone on standard output, so KEY=$(adapter-service keys create …) works."""
    with one_clear_line(), _opened(config, sources) as keys:
        scopes = frozenset(scope)
        expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
        first = not keys.in_use()
        key, secret = keys.create(name, scopes, expires_at)
    told = plain_console(stderr=True)
    until = f", until {_shown(expires_at)}" if expires_at else ""
    told.print(f"{key.id} ({name}), scope {_scopes(key)}{until}; keep the key, it is not shown again:")
    print(secret, file=sys.stdout, flush=True)  # noqa: T201 - bare, at any width of the terminal
    if first:
        told.print("from now on every request needs a key, from this machine too")


@app.command("list")
def list_keys(config: Config = None, sources: Sources = None) -> None:
    """List the keys, those that are good no more as well; the keys themselves are nowhere."""
    with one_clear_line(), _opened(config, sources) as keys:
        found = keys.list()
        if not found:
            console.print("there are no keys: peers on this machine may everything, and others nothing")
            return
        table = Table("id", "name", "scopes", "created at", "status")
        for key in found:
            table.add_row(key.id, key.name, _scopes(key), _shown(key.created_at), _status(key, keys.now()))
        console.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    config: Config = None,
    sources: Sources = None,
) -> None:
    """Have a key refused from the next request on."""
    with one_clear_line(), _opened(config, sources) as keys:
        key = keys.revoke(key_id)
        console.print(f"{key.id} ({key.name}) is revoked", soft_wrap=True)
        if not keys.in_use():
            console.print("no key is left: peers on this machine may everything again, and others nothing")


@contextmanager
def _opened(config: Path | None, sources: Path | None) -> Iterator[KeyStore]:
    database = Database(load_settings(config, sources).storage.state_dir / "service.db")
    try:
        yield KeyStore(database)
    finally:
        database.close()


def _scopes(key: Key) -> str:
    return ", ".join(sorted(key.scopes))


def _status(key: Key, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {_shown(key.revoked_at)}"
    if key.expires_at is None:
        return "active"
    return f"{'expired' if key.expired(now) else 'active until'} {_shown(key.expires_at)}"


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
