"""Tokens with which one node fetches one object until a time: for URLs that this service answers itself.

A token says what it is good for, and is signed with a key that never leaves the state folder. Nothing is
kept of those that were given out.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from itsdangerous import BadData, URLSafeSerializer

from adapter_service.durable import make_folder, rename_new, sync
from adapter_service.errors import BadLinkError, StorageError

KEY_FILE = "url_signing.key"
_KEY_BYTES = 32
_SALT = "adapter_service.delivery.artifact"
_MAX_TOKEN = 4096
_NEXT_STEP = "ask for the job again to get a new one"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is good for."""

    object_key: str
    node_id: str
    expires_at: datetime


class UrlSigner:
    """Makes tokens, and tells what those are good for that it made."""

    def __init__(self, key: bytes, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._serializer = URLSafeSerializer(key, salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256})
        self._now = now

    def token(self, grant: Grant) -> str:
        token = self._serializer.dumps([grant.object_key, grant.node_id, int(grant.expires_at.timestamp())])
        return token.decode() if isinstance(token, bytes) else token

    def grant(self, token: str) -> Grant:
        """Raise BadLinkError for a token that is not ours, was altered, or is too old."""
        try:
            if len(token) > _MAX_TOKEN:
                raise ValueError(len(token))
            object_key, node_id, expires = self._serializer.loads(token)
            grant = Grant(str(object_key), str(node_id), datetime.fromtimestamp(int(expires), UTC))
        except (BadData, ValueError, TypeError, OverflowError) as error:
            raise BadLinkError(f"this URL was not made by this service, or was altered; {_NEXT_STEP}") from error
        if self._now() >= grant.expires_at:
            raise BadLinkError(f"this URL was good until {grant.expires_at.isoformat()}; {_NEXT_STEP}")
        return grant


def signing_key(state_dir: Path) -> bytes:
    """The key of this state folder, made at the first call; whoever removes the file ends all URLs.

    Raises:
        StorageError: the file is no such key.
    """
    path = state_dir / KEY_FILE
    if not path.exists():
        _make(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise StorageError(
            f"{KEY_FILE} in the state folder has {len(key)} bytes, and a key has {_KEY_BYTES}; remove the file, and a "
            "new one is made: URLs that were given out end with it"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all, the owner's alone; where another process was faster its key stays."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            rename_new(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync(path.parent)
