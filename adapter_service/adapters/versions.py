"""Which versions an adapter has and which one is live: rows beside the immutable folders.

    publish ─▶ candidate ─▶ live ⇄ retired          only by decision of the gate or a person
                   └──────▶ rejected                listed, and served only as `name@number`

What was live is kept as a stack per adapter: a rollback takes the newest off and the one below is
live again, so that rolling back twice never brings back what was rolled back once.

Every change is one transaction with its event and, for what goes live, the rows of the stores that it
is to be pushed to. Events outlive the versions, and with them the numbers: none is given twice.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from adapter_service import adapter_names
from adapter_service.adapters.artifact import check_name, place_folder, seal_folder, verify_folder
from adapter_service.adapters.lease import unused
from adapter_service.adapters.uploads import queue
from adapter_service.database import Database
from adapter_service.errors import (
    ConflictError,
    NoVersionToRollBackError,
    SupersededError,
    UnknownAdapterError,
)
from adapter_service.suggestions import did_you_mean

log = logging.getLogger(__name__)

_ASIDE = ".removed-"  # no adapter is called so


class VersionStatus(StrEnum):
    CANDIDATE = "candidate"
    LIVE = "live"
    REJECTED = "rejected"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Version:
    """One trained, immutable set of adapter files, as its row was when it was read.

    `number` counts from 1 within the adapter; `gate` is what the gate said, with `reasons`.
    """

    adapter: str
    number: int
    key: str
    status: VersionStatus
    path: Path
    created_at: datetime
    job_id: str | None
    base_id: str
    parent_key: str | None
    gate: Mapping[str, Any]

    @property
    def reference(self) -> str:
        return f"{self.adapter}@{self.number}"


class VersionStore:
    """Versions in `database`, their folders in `root/<adapter>/<key>`; safe to share between threads.

    What goes live is queued for a push to `stores`.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        stores: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._root = root
        self._now = now
        self._stores = tuple(stores)
        self._went_live: Callable[[], None] = lambda: None

    def when_live(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a version went live, on the thread that decided it."""
        self._went_live = listener

    def publish(
        self,
        name: str,
        work_folder: Path,
        *,
        key: str,
        job_id: str | None,
        base_id: str,
        parent_key: str | None = None,
        gate: Mapping[str, Any] | None = None,
    ) -> Version:
        """Make a candidate of the files in `work_folder`, which is moved and must be on the same disk.

        A key that was published before gives the version it made then, whatever became of it, and
        leaves `work_folder` alone.
        """
        check_name(name)
        if (earlier := self.find(name, key)) is not None:
            return earlier
        seal_folder(work_folder)
        values = {
            "adapter": name,
            "key": key,
            "created_at": self._now().isoformat(),
            "job_id": job_id,
            "base_id": base_id,
            "parent_key": parent_key,
            "gate": json.dumps(gate or {}, allow_nan=False),
        }
        # Moved inside the transaction: `sweep`, here or in another process, never sees the one without the other.
        with self._database.transaction() as connection:
            if (row := connection.execute(_BY_KEY, (name, key)).fetchone()) is not None:
                return self._version(row)  # another process was faster
            place_folder(work_folder, self._root / name / key)
            row = connection.execute(_INSERT, values).fetchone()
            self._event(connection, row, row["status"])
        return self._version(row)

    def go_live(
        self,
        version: Version,
        gate: Mapping[str, Any] | None = None,
        *,
        check: Callable[[sqlite3.Connection], None] = lambda _: None,
    ) -> Version:
        """Serve `version` from now on, in place of what was live. Live already: nothing changes.

        One that was rejected or retired may go live as well: it is decided on anew, against what is live now.
        What has to be true in that moment is for `check`; what it raises leaves all as it was.

        Raises:
            SupersededError: its status changed since `version` was read.
        """
        if version.status is VersionStatus.LIVE:
            return version
        with self._database.transaction() as connection:
            check(connection)
            live = self.make_live(connection, version, gate)
        self.announce()
        return live

    def make_live(
        self, connection: sqlite3.Connection, version: Version, gate: Mapping[str, Any] | None = None
    ) -> Version:
        """`go_live` inside somebody's transaction, of one that is not live; `announce` it when that is committed."""
        connection.execute(_RETIRE, (version.adapter,))
        row = self._decide(connection, version, VersionStatus.LIVE, gate)
        connection.execute(_PUSH, (version.adapter, version.number))
        queue(connection, version.adapter, version.number, self._stores, self._now())
        return self._version(row)

    def announce(self) -> None:
        """A version may have gone live: whoever listens is told."""
        self._went_live()

    def reject(self, version: Version, reasons: Sequence[str], gate: Mapping[str, Any] | None = None) -> Version:
        """Never serve this candidate by its adapter's name. One that was decided before stays as it is."""
        if version.status is not VersionStatus.CANDIDATE:
            return version
        decision = {**(gate or version.gate), "reasons": list(reasons)}
        with self._database.transaction() as connection:
            row = self._decide(connection, version, VersionStatus.REJECTED, decision)
        return self._version(row)

    def rollback(self, name: str) -> Version:
        """Retire the live version; the one it replaced is live again.

        Raises:
            NoVersionToRollBackError: nothing was live before it.
        """
        live = self.live(name)
        if live is None:
            raise self._unknown(name)
        with self._database.transaction() as connection:
            stack = connection.execute(_STACK, (name,)).fetchall()
            if len(stack) < 2:
                raise NoVersionToRollBackError(
                    f"{live.reference} is the first version of {name!r} that went live; there is none to go "
                    "back to: train another, or ask for adapter 'base'"
                )
            connection.execute("DELETE FROM live_versions WHERE number = ?", (stack[0]["number"],))
            connection.execute(_RETIRE, (name,))
            row = self._revive(connection, name, stack[1]["version"])
        return self._version(row)

    def remove(self, version: Version, *, force: bool = False) -> Version | None:
        """Forget a version; of one that is live (`force`), the one that it replaced is live again.

        Its row goes, so that nobody finds it any more. Its files stay until `delete_files`, or the
        next `sweep`: requests that found it before may still have to read them.

        Returns:
            What is live in its place, if it was live and there is such a one.

        Raises:
            ConflictError: it is live, and `force` is not set.
        """
        name, revived = version.adapter, None
        with self._database.transaction() as connection:
            row = connection.execute(_ONE, (name, version.number)).fetchone()
            if row is None:
                raise self._unknown(version.reference)
            live = row["status"] == VersionStatus.LIVE
            if live and not force:
                raise ConflictError(
                    f"{version.reference} is live and answers under the name {name!r}; roll back or let another go "
                    "live first, or remove it by force"
                )
            connection.execute("DELETE FROM live_versions WHERE adapter = ? AND version = ?", (name, version.number))
            connection.execute(_DELETE_REPEATED, (name,))
            connection.execute("DELETE FROM versions WHERE adapter = ? AND number = ?", (name, version.number))
            self._event(connection, row, "removed")
            below = connection.execute(_STACK, (name,)).fetchone()
            if live and below is not None:
                revived = self._revive(connection, name, below["version"])
        return self._version(revived) if revived else None

    def delete_files(self, version: Version, *, wait: bool) -> bool:
        """Delete the folder of a removed version; False where requests still need it and `wait` is false."""
        if self.find(version.adapter, version.key) is not None:
            return True  # published again meanwhile: they are that one's now
        with unused(version.path, wait=wait) as free:
            if free:
                self._delete(version.path)
        return free or not version.path.exists()

    def sweep(self) -> list[str]:
        """Delete folders that no row names and nobody reads, of adapters that the database knows; their keys.

        Those of others stay: the database may have been moved away, and these be all that is left of the work.
        """
        if left := list(self._root.glob(f"{_ASIDE}*")):
            with self._database.transaction():
                pass  # whoever made one of them has moved its folder there by now
        for aside in left:
            shutil.rmtree(aside, ignore_errors=True)
        names = [row["adapter"] for row in self._database.read("SELECT DISTINCT adapter FROM version_events")]
        folders = [folder for name in names for folder in sorted((self._root / name).glob("*"))]
        return [folder.name for folder in folders if self._sweep(folder)]

    def live(self, name: str) -> Version | None:
        return self._one("SELECT * FROM versions WHERE adapter = ? AND status = 'live'", (name,))

    def find(self, name: str, key: str) -> Version | None:
        """The version of that content, if it was published."""
        return self._one(_BY_KEY, (name, key))

    def references(self, keys: Collection[str]) -> dict[str, str]:
        """The newest `adapter@number` that has each key; without those that no version has."""
        rows = self._database.read(_NAMES, (json.dumps(list(keys)),))
        return {row["key"]: f"{row['adapter']}@{row['number']}" for row in rows}

    def resolve(self, reference: str) -> Version:
        """The live version of `name`, or exactly the version `name@number`, whatever its status.

        Raises:
            UnknownAdapterError: there is none; says which there are.
        """
        name, at, number = reference.partition("@")
        if not at:
            found = self.live(name)
        elif number.isdecimal() and len(number) < 10:
            found = self._one(_ONE, (name, int(number)))
        else:
            found = None
        if found is None:
            raise self._unknown(reference)
        return found

    def list(self) -> tuple[Version, ...]:
        """Every version of every adapter, by name, newest first."""
        rows = self._database.read("SELECT * FROM versions ORDER BY adapter, number DESC")
        return tuple(map(self._version, rows))

    def verify(self, version: Version) -> None:
        """Compare the files with their manifest; AdapterFormatError if they differ."""
        verify_folder(version.path)

    def _sweep(self, folder: Path) -> bool:
        # A version that has its row is never locked: whoever came to lease it would take it for removed.
        if self._database.read(_BY_KEY, (folder.parent.name, folder.name)):
            return False
        try:
            with unused(folder, wait=False) as free:
                return free and self._delete(folder)
        except OSError:
            log.warning("%s, which no version needs, cannot be removed", folder, exc_info=True)
            return False

    def _delete(self, folder: Path) -> bool:
        """Delete a version's folder, if it is there and has no row; whether that was so.

        It is moved aside while no other process can write a row, and then deleted at leisure, by a sweep
        as well as by whoever moved it.
        """
        with self._database.transaction() as connection:
            row = connection.execute(_BY_KEY, (folder.parent.name, folder.name)).fetchone()
            if row is not None or not folder.is_dir():
                return False
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._root))
            folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def _revive(self, connection: sqlite3.Connection, name: str, number: int) -> sqlite3.Row:
        row: sqlite3.Row = connection.execute(_REVIVE, (name, number)).fetchone()
        self._event(connection, row, VersionStatus.LIVE)
        return row

    def _event(self, connection: sqlite3.Connection, row: sqlite3.Row, kind: str) -> None:
        values = (row["adapter"], row["number"], row["key"], kind, self._now().isoformat())
        connection.execute(_EVENT, values)

    def _decide(
        self,
        connection: sqlite3.Connection,
        version: Version,
        status: VersionStatus,
        gate: Mapping[str, Any] | None,
    ) -> sqlite3.Row:
        decided = json.dumps(version.gate if gate is None else gate, allow_nan=False)
        guard = (version.adapter, version.number, version.status)
        row: sqlite3.Row | None = connection.execute(_DECIDE, (status, decided, *guard)).fetchone()
        if row is None:
            raise SupersededError(
                f"{version.reference} is no longer {version.status}; read it again before you decide on it"
            )
        self._event(connection, row, status)
        return row

    def _one(self, sql: str, parameters: tuple[str | int, ...]) -> Version | None:
        rows = self._database.read(sql, parameters)
        return self._version(rows[0]) if rows else None

    def _version(self, row: sqlite3.Row) -> Version:
        return Version(
            adapter=row["adapter"],
            number=row["number"],
            key=row["key"],
            status=VersionStatus(row["status"]),
            path=self._root / row["adapter"] / row["key"],
            created_at=datetime.fromisoformat(row["created_at"]),
            job_id=row["job_id"],
            base_id=row["base_id"],
            parent_key=row["parent_key"],
            gate=json.loads(row["gate"]),
        )

    def _unknown(self, reference: str) -> UnknownAdapterError:
        name = reference.partition("@")[0]
        versions = self.list()
        own = [f"{version.reference} ({version.status})" for version in versions if version.adapter == name]
        if name in adapter_names.RESERVED:
            return UnknownAdapterError(
                f"{reference!r} is no adapter: {name!r} means {adapter_names.RESERVED[name]}, which has no versions; "
                f"ask for {adapter_names.BASE!r}, or for an adapter by its name"
            )
        if own:
            return UnknownAdapterError(f"no version to serve under {reference!r}; there are: {', '.join(own)}")
        live = [version.adapter for version in versions if version.status is VersionStatus.LIVE]
        known = f"known: {', '.join(live)}" if live else "none is trained yet; train one, or ask for 'base'"
        return UnknownAdapterError(f"unknown adapter {reference!r}{did_you_mean(name, live)} {known}")


_INSERT = """
    INSERT INTO versions (adapter, number, key, status, created_at, job_id, base_id, parent_key, gate)
    SELECT :adapter, coalesce(max(version), 0) + 1, :key, 'candidate', :created_at, :job_id, :base_id,
        :parent_key, :gate
    FROM version_events WHERE adapter = :adapter
    RETURNING *"""
_EVENT = "INSERT INTO version_events (adapter, version, key, kind, at) VALUES (?, ?, ?, ?, ?)"
_ONE = "SELECT * FROM versions WHERE adapter = ? AND number = ?"
_BY_KEY = "SELECT * FROM versions WHERE adapter = ? AND key = ?"
_NAMES = """
    SELECT adapter, number, key FROM versions WHERE key IN (SELECT value FROM json_each(?)) ORDER BY created_at"""
_DECIDE = "UPDATE versions SET status = ?, gate = ? WHERE adapter = ? AND number = ? AND status = ? RETURNING *"
_RETIRE = "UPDATE versions SET status = 'retired' WHERE adapter = ? AND status = 'live'"
_REVIVE = "UPDATE versions SET status = 'live' WHERE adapter = ? AND number = ? RETURNING *"
_PUSH = "INSERT INTO live_versions (adapter, version) VALUES (?, ?)"
# A version that was between two turns of one other leaves these two beside each other.
_DELETE_REPEATED = """
    DELETE FROM live_versions WHERE adapter = ?1 AND version = (
        SELECT below.version FROM live_versions AS below
        WHERE below.adapter = ?1 AND below.number < live_versions.number
        ORDER BY below.number DESC LIMIT 1)"""
_STACK = "SELECT number, version FROM live_versions WHERE adapter = ? ORDER BY number DESC LIMIT 2"
