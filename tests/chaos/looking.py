"""What must be true of a state folder at any moment, also of one whose process was just killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from adapter_service.adapters.artifact import MANIFEST, verify_folder
from adapter_service.errors import AdapterFormatError, AdapterServiceError
from adapter_service.publishing.copying import described_file
from adapter_service.publishing.manifest import parse_manifest


def faults_of_state(state_dir: Path, store_dir: Path) -> list[str]:
    """Everything that is wrong: half-written versions, rows without files, a damaged database, two jobs at once."""
    with closing(sqlite3.connect(state_dir / "service.db")) as database:
        return [
            *_of_database(database),
            *_of_versions(database, state_dir / "adapters"),
            *_of_folders(state_dir / "adapters", verify_folder),
            *_of_folders(store_dir, _verify_stored),
        ]


def _of_database(database: sqlite3.Connection) -> list[str]:
    faults = [f"integrity: {row[0]}" for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
    faults += [f"foreign key: {tuple(row)}" for row in database.execute("PRAGMA foreign_key_check")]
    running = database.execute("SELECT count(*) FROM jobs WHERE status = 'running'").fetchone()[0]
    events = database.execute(
        "SELECT job_id, kind, count(*) FROM job_events WHERE kind IN ('succeeded', 'failed', 'cancelled') "
        "GROUP BY job_id HAVING count(*) > 1"
    )
    return [
        *faults,
        *([f"{running} jobs run at once"] if running > 1 else []),
        *(f"{job_id} ended {count} times, as {kind} too" for job_id, kind, count in events),
    ]


def _of_versions(database: sqlite3.Connection, adapters: Path) -> list[str]:
    rows = database.execute("SELECT adapter, number, key FROM versions").fetchall()
    missing = [
        f"{adapter}@{number} has no files" for adapter, number, key in rows if not (adapters / adapter / key).is_dir()
    ]
    return missing + [f"{adapter} has a version {number}" for adapter, number, _ in rows if number > 1]


def _of_folders(root: Path, verify: Callable[[Path], None]) -> list[str]:
    """Whatever has a version's place and name is whole; what is being gathered has a name with a dot."""
    faults = []
    for folder in root.glob("*/*"):
        if folder.name.startswith("."):
            continue
        try:
            verify(folder)
        except (AdapterServiceError, OSError) as error:
            faults.append(f"{folder.parent.name}/{folder.name[:12]} in {root.name}: {error}")
    return faults


def _verify_stored(folder: Path) -> None:
    """A version in a store is what its manifest there says."""
    files = parse_manifest((folder / MANIFEST).read_bytes(), str(folder)).files
    if differing := [name for name, wanted in files.items() if described_file(folder / name) != wanted]:
        raise AdapterFormatError(f"other bytes in {differing}")
