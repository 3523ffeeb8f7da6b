"""`adapter-service demo …`: see a whole use at work on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapter_service.cli.terminal import Config, one_clear_line, plain_console
from adapter_service.errors import InvalidParameterError
from adapter_service.settings import load_settings

app = typer.Typer(name="demo", help="See a whole use at work on this machine.", no_args_is_help=True)


@app.callback()
def demo() -> None:
    """Each demonstration keeps what it makes in a folder of its own, and begins anew."""


@app.command()
def commands(
    config: Config = None,
    store: Annotated[str, typer.Option(help="Where the adapter is published: s3 or folder.")] = "s3",
    output: Annotated[Path | None, typer.Option(help="Where the answers go, as JSON.")] = None,
) -> None:
    """Teach the base a node's dozen commands, and have the node fetch its adapter and answer ten sentences."""
    from adapter_service.demo.home_hub import run, write_results

    with one_clear_line():
        if store not in {"s3", "folder"}:
            raise InvalidParameterError(f"--store is {store!r}; s3 and folder are possible", parameter="store")
        asked = run(load_settings(config), plain_console(), store="s3" if store == "s3" else "folder")
        if output is not None:
            write_results(asked, output)
