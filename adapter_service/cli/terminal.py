"""What every command of the command line shares: two options, and how an error looks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapter_service.errors import AdapterServiceError
from adapter_service.storage_faults import storage_fault

Config = Annotated[Path | None, typer.Option("--config", help="adapter_config.yaml to use.")]
Sources = Annotated[Path | None, typer.Option("--sources", help="mcp_connectors.yml to use.")]


@contextmanager
def one_clear_line() -> Iterator[None]:
    """An error of ours ends the command with one message and status 1."""
    try:
        yield
    except AdapterServiceError as error:
        raise _told(error) from None
    except (OSError, sqlite3.Error) as error:
        if (fault := storage_fault(error)) is None:
            raise
        raise _told(fault) from None


def _told(error: AdapterServiceError) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"error ({error.code}): {error}", style="red", markup=False)
    return typer.Exit(1)
