"""The command line: `adapter-service serve | check | train | smoke | evaluate | quickstart | sources | adapters …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from adapter_service import train_adapt
from adapter_service.adapters import VersionStore
from adapter_service.auth import KeyStore
from adapter_service.cli import adapters, demo, keys
from adapter_service.cli.checking import check as check_settings
from adapter_service.cli.terminal import Config, Sources, one_clear_line, plain_console
from adapter_service.database import Database
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import base_loader
from adapter_service.errors import InvalidParameterError
from adapter_service.settings import Settings, load_settings

app = typer.Typer(
    name="adapter-service",
    help="Teach one resident base model new things, and serve what it learned, in one process.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.add_typer(demo.app, name="demo")
console = plain_console()


@app.command()
def serve(
    config: Config = None,
    sources: Sources = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default: serving.host).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default: serving.port).")] = None,
) -> None:
    """Serve over HTTP until Ctrl-C."""
    import uvicorn

    from adapter_service.api import create_app
    from adapter_service.api.log_lines import log_as_json_lines
    from adapter_service.api.starting import check_address
    from adapter_service.cli.http_server import listening_at

    log_as_json_lines()
    with one_clear_line():
        settings = listening_at(load_settings(config, sources), host, port)
        application = create_app(settings)
        check_address(KeyStore(application.state.services.database), settings.serving.host)
    uvicorn.run(
        application,
        host=settings.serving.host,
        port=settings.serving.port,
        proxy_headers=False,  # api/peers.py reads them itself, and believes none that gives more rights
    )


@app.command()
def check(config: Config = None, sources: Sources = None) -> None:
    """Validate both files and say what the service would do with them."""
    with one_clear_line():
        report = check_settings(load_settings(config, sources))
    table = Table(show_header=False)
    for subject, text in report.rows:
        table.add_row(subject, text)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    for problem in report.problems:
        console.print(f"problem: {problem}", style="red")
    raise typer.Exit(0 if report.ok else 1)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train one adapter without the server (the same as train_adapt.py; --help lists its options)."""
    raise typer.Exit(train_adapt.main(context.args))


@app.command("sources")
def list_sources(config: Config = None, sources: Sources = None) -> None:
    """List the configured sources."""
    with one_clear_line():
        settings = load_settings(config, sources)
    table = Table("source", "kind", "file and line")
    for entry in settings.sources.values():
        table.add_row(entry.name, entry.kind, f"{entry.file}:{entry.line}")
    console.print(table)


@app.command()
def smoke(
    config: Config = None,
    sources: Sources = None,
    url: Annotated[str | None, typer.Option(help="A running service (default: serving.host and port).")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter to ask (default: serving.default_adapter).")] = None,
    prompts: Annotated[Path, typer.Option(help="File with the prompts.")] = Path("test_prompts/prompts_10.json"),
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("smoke_results.md"),
) -> None:
    """Ask a running service ten prompts and ten held-out ones, base beside adapter, and write a report."""
    from adapter_service.measuring.smoke_run import smoke_service

    with one_clear_line():
        settings = load_settings(config, sources)
        where = url or f"http://{settings.serving.host}:{settings.serving.port}"
        smoke_service(settings, console, url=where, adapter=adapter, prompts=prompts, output=output)


@app.command()
def evaluate(
    config: Config = None,
    sources: Sources = None,
    adapter: Annotated[str | None, typer.Option(help="name or name@version (default: the configured one).")] = None,
    source: Annotated[str | None, typer.Option(help="Whose holdout (default: data.source).")] = None,
) -> None:
    """Score a version and the base on 100 held-out pairs, in batches, without the server."""
    from adapter_service.measuring.evaluation_report import rich_table
    from adapter_service.measuring.evaluation_run import evaluate_version

    with one_clear_line():
        settings = load_settings(config, sources)
        database = _existing_database(settings)
        versions = VersionStore(database, settings.storage.state_dir / "adapters")
        version = versions.resolve(adapter or settings.serving.default_adapter)
        versions.verify(version)
        engine = Engine(base_loader(settings))
        engine.start()
        try:
            console.print(rich_table(evaluate_version(settings, engine, version, source or settings.data.source)))
        finally:
            engine.stop()
            database.close()


@app.command()
def quickstart(
    config: Config = None,
    sources: Sources = None,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Stop after the smoke results.")] = False,  # noqa: FBT002
    hours: Annotated[float | None, typer.Option(min=0.05, help="Train for about so long instead.")] = None,
) -> None:
    """Stream the sample corpus, train an adapter, gate it, answer twenty prompts, and serve."""
    from adapter_service.cli.quickstart import run

    with one_clear_line():
        run(load_settings(config, sources), console, serve_after=not no_serve, hours=hours)


def _existing_database(settings: Settings) -> Database:
    path = settings.storage.state_dir / "service.db"
    if not path.is_file():
        raise InvalidParameterError("nothing was trained yet: there is no database; start with `make run`")
    return Database(path)
