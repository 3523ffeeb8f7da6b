"""What every command of the command line shares: two options, and how text and errors look."""

from __future__ import annotations

import re
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

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


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


def plain_console(*, stderr: bool = False) -> Console:
    """Shows text as it is: brackets and colons are of a path, a name or an answer, never a style or a picture."""
    return Console(markup=False, emoji=False, stderr=stderr, soft_wrap=stderr)


def printable(text: str) -> str:
    """What others wrote, without the characters that a terminal obeys."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def tell_error(error: AdapterServiceError) -> None:
    plain_console(stderr=True).print(f"error ({error.code}): {printable(str(error))}", style="red")


def _told(error: AdapterServiceError) -> typer.Exit:
    tell_error(error)
    return typer.Exit(1)
