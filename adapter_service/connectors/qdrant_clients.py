"""Clients of qdrant-client, which is an extra: of a server, or of an embedded folder that readers share."""

from __future__ import annotations

import pickle
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapter_service.errors import SettingsError, SourceFormatError, SourceUnreachableError

# qdrant-client holds every collection of a folder in memory, in about three times what it takes on disk.
MAX_FOLDER_BYTES = 512 * 1024 * 1024


def require_package(source: str) -> None:
    """Raise SettingsError where the extra is not installed."""
    if find_spec("qdrant_client") is None:
        raise SettingsError(
            f"source '{source}' is of kind 'qdrant', for which the package qdrant-client is missing; "
            "run: pip install adapter-service[qdrant]"
        )


@contextmanager
def served(url: str, *, api_key: str, timeout_seconds: float) -> Iterator[Any]:
    """A client of the server at `url`; nothing is connected to yet."""
    from qdrant_client import QdrantClient

    client = QdrantClient(
        url=url, api_key=api_key or None, timeout=round(timeout_seconds) or 1, check_compatibility=False
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def embedded(path: str) -> Iterator[Any]:
    """The client of a folder, the same for all readers in this process: Qdrant locks it for one client."""
    folder = Path(path).resolve()
    with _lock:
        shared = _shared.get(folder) or _Shared(_loaded(folder))
        _shared[folder] = shared
        shared.readers += 1
    try:
        yield shared.client
    finally:
        with _lock:
            shared.readers -= 1
            if shared.readers == 0:
                del _shared[folder]
                shared.client.close()


@dataclass(slots=True)
class _Shared:
    client: Any
    readers: int = 0


_shared: dict[Path, _Shared] = {}
_lock = threading.Lock()


def _loaded(folder: Path) -> Any:
    from qdrant_client import QdrantClient

    # Asked for one that is not there, qdrant-client would make it.
    if not (folder / "meta.json").is_file():
        raise SourceUnreachableError(
            f"{folder.name!r} is no folder that qdrant-client wrote (it has no meta.json); "
            "check `path`, which counts from the folder of mcp_connectors.yml"
        )
    size = sum(file.stat().st_size for file in folder.rglob("*.sqlite"))
    if size > MAX_FOLDER_BYTES:
        raise SourceUnreachableError(
            f"{folder.name!r} has {size >> 20} MiB, and an embedded folder is held in memory whole "
            f"(up to {MAX_FOLDER_BYTES >> 20} MiB are); run a Qdrant server and give its `url`"
        )
    try:
        # Readers may be on several threads; they only look at what is in memory.
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise SourceUnreachableError(
            f"{folder.name!r} is in use by another process, and an embedded folder is read by one at a time; "
            "stop that process, or run a Qdrant server and give its `url`"
        ) from error
    except OSError as error:
        raise SourceUnreachableError(
            f"{folder.name!r}: cannot be read ({error.strerror}); qdrant-client has to write a lock file there"
        ) from error
    except (sqlite3.Error, pickle.UnpicklingError, ValueError, KeyError, EOFError) as error:
        raise SourceFormatError(
            f"{folder.name!r}: not as qdrant-client writes it ({error}); write it again, or restore a copy"
        ) from error
