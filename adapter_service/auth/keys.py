"""API keys: 32 random bytes that are shown once; of each the SHA-256 is kept, and nothing else.

A slow hash would add nothing: nobody guesses 256 random bits, with the digest in hand or without it.
Every look-up reads the table, so a key that another process revokes is refused from that moment on
(measured: 0.02 ms; a cache would have to be asked whether it is stale, which costs as much).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from adapter_service.auth.scopes import check_scopes
from adapter_service.database import Database
from adapter_service.errors import InvalidParameterError, UnknownKeyError

# So that people, and scanners for leaked secrets, know one when they see it.
PREFIX = "ask_"
_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; the key itself is not."""

    id: str
    name: str
    scopes: frozenset[str]
    digest: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at

    def active(self, at: datetime) -> bool:
        return self.revoked_at is None and not self.expired(at)


class KeyStore:
    """The rows; safe to share between threads and processes."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self.now = now

    def create(self, name: str, scopes: Collection[str], expires_at: datetime | None = None) -> tuple[Key, str]:
        """A new key, and its text, which nobody can show again.

        Raises:
            InvalidParameterError: the name will not do, or the scopes do not.
        """
        if not (name.isprintable() and 0 < len(name.strip()) <= len(name) <= _MAX_NAME):
            raise InvalidParameterError(
                f"the name has {len(name)} characters or some that cannot be printed; give 1 to {_MAX_NAME} printable "
                "ones, such as what the key is for",
                parameter="name",
            )
        check_scopes(scopes)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=f"key-{secrets.token_hex(5)}",
            name=name,
            scopes=frozenset(scopes),
            digest=digest_of(secret),
            created_at=self.now(),
            expires_at=expires_at,
            revoked_at=None,
        )
        until = expires_at.isoformat() if expires_at else None
        row = (key.id, name, " ".join(sorted(scopes)), key.digest, key.created_at.isoformat(), until)
        with self._database.transaction() as connection:
            connection.execute(_CREATE, row)
        return key, secret

    def find(self, secret: str) -> Key | None:
        """Whose text this is, be it active or not; None of nobody's."""
        digest = digest_of(secret)
        rows = self._database.glance("SELECT * FROM api_keys WHERE digest = ?", (digest,))
        # The index compares byte by byte, and may take longer the more of them are right; but of a digest, whose
        # bytes nobody can choose. What decides is the comparison that takes the same time for all of them.
        found = next((row for row in rows if hmac.compare_digest(row["digest"], digest)), None)
        return _key(found) if found else None

    def list(self) -> tuple[Key, ...]:
        """All that ever were, oldest first."""
        return tuple(map(_key, self._database.read("SELECT * FROM api_keys ORDER BY number")))

    def in_use(self) -> bool:
        """Whether requests need a key: one is not revoked. An expired one counts, so that time opens nothing."""
        return bool(self._database.glance("SELECT EXISTS (SELECT 1 FROM api_keys WHERE revoked_at IS NULL)")[0][0])

    def any_active(self) -> bool:
        now = self.now()
        return any(key.active(now) for key in self.list())

    def revoke(self, key_id: str) -> Key:
        """Refuse a key from now on, in every process; one that was revoked stays as it is.

        Raises:
            UnknownKeyError: there is none of that id.
        """
        with self._database.transaction() as connection:
            connection.execute(_REVOKE, (self.now().isoformat(), key_id))
            row = connection.execute("SELECT * FROM api_keys WHERE id = ?", (key_id,)).fetchone()
        if row is None:
            raise UnknownKeyError(f"there is no key {key_id!r}; `adapter-service keys list` shows the ids")
        return _key(row)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: sqlite3.Row) -> Key:
    return Key(
        id=row["id"],
        name=row["name"],
        scopes=frozenset(row["scopes"].split()),
        digest=row["digest"],
        created_at=datetime.fromisoformat(row["created_at"]),
        expires_at=_time(row["expires_at"]),
        revoked_at=_time(row["revoked_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


_CREATE = """
    INSERT INTO api_keys (id, name, scopes, digest, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)"""
_REVOKE = """
    UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"""
