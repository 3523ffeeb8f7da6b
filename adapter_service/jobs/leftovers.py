"""What dead processes left in the state folder, removed at the start, before any job runs.

Only what nothing can use any more: whatever a waiting job goes on from is kept.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from adapter_service.adapters import VersionStore
from adapter_service.jobs.store import JobStore

# An import takes a minute or two; bases may be shared with another process, whose import is left alone.
IMPORT_SECONDS = 24 * 3600

logger = logging.getLogger(__name__)


def remove_leftovers(state_dir: Path, jobs: JobStore, versions: VersionStore) -> None:
    """Remove them; one that cannot be removed is told in the log and stays."""
    for leftover in [
        *_work_of_ended_jobs(state_dir / "work", jobs),
        *(state_dir / "work").glob("*/*.writing"),
        *_abandoned_imports(state_dir / "bases"),
    ]:
        _remove(leftover)
    for key in versions.sweep():
        logger.info("removed version %s, which has no row", key)


def _work_of_ended_jobs(work_dir: Path, jobs: JobStore) -> Iterator[Path]:
    unfinished = jobs.unfinished_ids()
    return (folder for folder in work_dir.glob("job_*") if folder.name not in unfinished)


def _abandoned_imports(bases_dir: Path) -> Iterator[Path]:
    return (folder for folder in bases_dir.glob("import-*") if _age_seconds(folder) > IMPORT_SECONDS)


def _age_seconds(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:  # its process has just ended the import
        return 0.0


def _remove(leftover: Path) -> None:
    logger.info("removing %s/%s, left by an earlier process", leftover.parent.name, leftover.name)
    try:
        shutil.rmtree(leftover)
    except OSError:
        logger.warning("%s cannot be removed", leftover, exc_info=True)
