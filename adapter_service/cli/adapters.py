"""`adapter-service adapters list | push | pull | verify | remove`: versions here, and between machines.

All of it works beside a running service, which sees at once what changed: both use one database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from adapter_service.adapters import Version, VersionStatus, VersionStore
from adapter_service.adapters.uploads import Upload, Uploads
from adapter_service.cli.terminal import Config, Sources, one_clear_line, plain_console, printable
from adapter_service.database import Database
from adapter_service.errors import AdapterFormatError, InvalidParameterError
from adapter_service.publishing.judging import judge_files
from adapter_service.publishing.manifest import manifest_of, megabytes
from adapter_service.publishing.opening import open_store, store_named
from adapter_service.publishing.pulling import check_base, choose, list_store
from adapter_service.publishing.pulling import pull as pull_version
from adapter_service.publishing.pushing import push as push_version
from adapter_service.publishing.store import Store
from adapter_service.settings import Settings, load_settings

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseOutline

app = typer.Typer(help="Versions of adapters: list, push, pull, verify, remove.", no_args_is_help=True)
console = plain_console()

InStore = Annotated[str | None, typer.Option("--store", help="One of publishing.stores (default: the only one).")]
Reference = Annotated[str, typer.Argument(help="name for the live version, or name@number.")]


@dataclass(frozen=True, slots=True)
class _Shelf:
    """The parts that these commands work with."""

    settings: Settings
    versions: VersionStore
    uploads: Uploads

    @property
    def state_dir(self) -> Path:
        return self.settings.storage.state_dir

    def store(self, name: str | None) -> Store:
        stores = self.settings.publishing.stores
        if name is None and len(stores) == 1:
            name = stores[0].name
        if name is None:
            names = ", ".join(store.name for store in stores) or "none is configured: see publishing.stores"
            raise InvalidParameterError(f"--store is missing; say which: {names}", parameter="store")
        return open_store(store_named(name, stores), self.state_dir)

    def outline(self) -> BaseOutline:
        """The configured base, as far as an adapter has to fit it."""
        from adapter_service.model_utils import outline_base

        model = self.settings.model
        return outline_base(
            model.base,
            bases_dir=self.state_dir / "bases",
            revision=model.revision,
            tokenizer=model.tokenizer,
            note=console.print,
        )


@app.command("list")
def list_versions(
    store: Annotated[str | None, typer.Option("--store", help="List this store instead of this machine.")] = None,
    config: Config = None,
    sources: Sources = None,
) -> None:
    """List the versions here with what became of their pushes, or what a store has for pulling."""
    with one_clear_line(), _opened(config, sources) as shelf:
        if store is None:
            _list_here(shelf)
        else:
            _list_there(shelf.store(store))


@app.command()
def push(reference: Reference, store: InStore = None, config: Config = None, sources: Sources = None) -> None:
    """Push a version to a store now: its files first, its manifest last, and nothing that is there already."""
    with one_clear_line(), _opened(config, sources) as shelf:
        target = shelf.store(store)
        version = shelf.versions.resolve(reference)
        pushed = push_version(version, target)
        shelf.uploads.note_pushed(version.adapter, version.number, target.name)
        sent = ", ".join(pushed.sent) if pushed else ""
        console.print(
            f"{version.reference} ({version.key[:12]}) is in {target.name}: "
            + (f"sent {sent}" if sent else "all of it was there already"),
            soft_wrap=True,
        )


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="name for the newest, name@number or name@key.")],
    store: InStore = None,
    as_name: Annotated[str | None, typer.Option("--as", help="What it is called here (default: as there).")] = None,
    live: Annotated[bool, typer.Option("--live", help="Serve it by its name at once.")] = False,  # noqa: FBT002
    config: Config = None,
    sources: Sources = None,
) -> None:
    """Take a version from a store, check it against the base here, and make a candidate of it."""
    with one_clear_line(), _opened(config, sources) as shelf:
        source = shelf.store(store)
        found = choose(source, reference)
        version = pull_version(
            found,
            source,
            shelf.versions,
            shelf.outline,
            name=as_name or found.adapter,
            work_dir=shelf.state_dir / "work",
            max_bytes=shelf.settings.publishing.max_pull_mb << 20,
        )
        if live:
            version = shelf.versions.go_live(version)
        console.print(
            f"{version.reference} is {found.reference} of {source.name} ({found.key[:12]}, "
            f"{megabytes(found.size_bytes)}), and {version.status}: {_asked_as(version)}",
            soft_wrap=True,
        )


@app.command()
def verify(reference: Reference, config: Config = None, sources: Sources = None) -> None:
    """Compare a version with its manifest byte for byte, and with the base layer by layer."""
    with one_clear_line(), _opened(config, sources) as shelf:
        version = shelf.versions.resolve(reference)
        shelf.versions.verify(version)
        manifest, base = manifest_of(version), shelf.outline()
        check_base(manifest, base)
        judge_files(version.path, base)
        table = Table("file", "bytes", "sha256")
        for name, file in manifest.files.items():
            table.add_row(name, str(file.size_bytes), file.sha256[:16])
        console.print(table)
        console.print(f"{version.reference} is whole, and fits {base.name}")


@app.command()
def remove(
    reference: Annotated[str, typer.Argument(help="name@number")],
    force: Annotated[bool, typer.Option("--force", help="Even the live one.")] = False,  # noqa: FBT002
    config: Config = None,
    sources: Sources = None,
) -> None:
    """Forget a version and delete its files here, when the last request that uses them has ended.

    What was pushed to stores stays there. Its number is not given again.
    """
    with one_clear_line(), _opened(config, sources) as shelf:
        if "@" not in reference:
            raise InvalidParameterError(
                f"{reference!r} names no version; write {reference}@number, one at a time", parameter="reference"
            )
        version = shelf.versions.resolve(reference)
        revived = shelf.versions.remove(version, force=force)
        if version.status is VersionStatus.LIVE:
            now = f"{revived.reference} is live again" if revived else f"nothing is live under {version.adapter!r}"
            console.print(f"{version.reference} was live; {now}")
        if not shelf.versions.delete_files(version, wait=False):
            console.print("requests that had begun still use its files; waiting for them (Ctrl-C leaves the files)")
            shelf.versions.delete_files(version, wait=True)
        console.print(f"{version.reference} is removed")


@contextmanager
def _opened(config: Path | None, sources: Path | None) -> Iterator[_Shelf]:
    settings = load_settings(config, sources)
    database = Database(settings.storage.state_dir / "service.db")
    try:
        stores = [store.name for store in settings.publishing.stores]
        versions = VersionStore(database, settings.storage.state_dir / "adapters", stores=stores)
        yield _Shelf(settings, versions, Uploads(database))
    finally:
        database.close()


def _list_here(shelf: _Shelf) -> None:
    versions = shelf.versions.list()
    if not versions:
        console.print("there are no versions here yet; train one, or pull one")
        return
    uploads: dict[str, list[Upload]] = {}
    for upload in shelf.uploads.list():
        uploads.setdefault(upload.reference, []).append(upload)
    table = Table("version", "status", "key", "made at", "size", "stores")
    for version in versions:
        told = ", ".join(f"{upload.store}: {upload.status}" for upload in uploads.get(version.reference, ()))
        made_at = f"{version.created_at:%Y-%m-%d %H:%M}"
        table.add_row(version.reference, version.status, version.key[:12], made_at, _size(version), told)
    console.print(table)
    for upload in (upload for found in uploads.values() for upload in found if upload.reason):
        console.print(f"{upload.reference} to {upload.store}: {upload.reason}", soft_wrap=True)


def _list_there(store: Store) -> None:
    listing = list_store(store)
    if listing.versions:
        table = Table("version", "key", "made at", "size", "base")
        for version in listing.versions:
            made_at = f"{version.created_at:%Y-%m-%d %H:%M}"
            size = megabytes(version.size_bytes)
            table.add_row(version.reference, version.key[:12], made_at, size, printable(version.base_name))
        console.print(table)
    else:
        console.print(f"store {store.name} ({store.shown}) has no versions", soft_wrap=True)
    for fault in listing.faults:
        console.print(printable(fault), style="red", soft_wrap=True)


def _size(version: Version) -> str:
    try:
        return megabytes(manifest_of(version).size_bytes)
    except AdapterFormatError:
        return "damaged"


def _asked_as(version: Version) -> str:
    if version.status is VersionStatus.LIVE:
        return f"ask for {version.adapter!r}"
    return f"ask for {version.reference!r}, or pull it with --live to serve it as {version.adapter!r}"
