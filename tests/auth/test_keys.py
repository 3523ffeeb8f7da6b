"""Keys are shown once, kept as digests, and refused from the moment that they are good no more."""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_service.auth import KeyStore, keys
from adapter_service.database import Database
from adapter_service.errors import InvalidParameterError, UnknownKeyError

NOON = datetime(2026, 1, 14, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "service.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database, lambda: NOON)


def test_a_key_is_found_by_its_text_and_by_no_other(store: KeyStore) -> None:
    key, secret = store.create("hub", {"app"})
    store.create("other", {"read"})
    assert store.find(secret) == key
    assert store.find(secret[:-1]) is None
    assert store.find(secret.upper()) is None
    assert store.find(key.digest) is None
    assert store.find("") is None


def test_keys_are_256_random_bits_behind_a_prefix(store: KeyStore) -> None:
    secrets = [store.create("hub", {"app"})[1] for _ in range(50)]
    assert all(secret.startswith("ask_") and len(secret) == 4 + 43 for secret in secrets)
    assert len(set(secrets)) == 50


def test_the_database_has_the_digest_and_never_the_key(store: KeyStore, database: Database) -> None:
    key, secret = store.create("hub", {"app"})
    stored = b"".join(path.read_bytes() for path in database.path.parent.iterdir())
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert key.digest.encode() in stored
    assert secret.encode() not in stored
    assert secret.removeprefix("ask_").encode() not in stored


def test_a_key_says_little_of_itself(store: KeyStore) -> None:
    key, secret = store.create("hub", {"app"})
    assert secret not in repr(key)
    assert secret not in key.id


def test_a_revoked_key_is_known_and_good_no_more(store: KeyStore) -> None:
    key, secret = store.create("hub", {"app"})
    store.revoke(key.id)
    found = store.find(secret)
    assert found is not None
    assert (found.revoked_at, found.active(NOON)) == (NOON, False)


def test_revoking_twice_keeps_the_first_time(store: KeyStore, database: Database) -> None:
    key, _ = store.create("hub", {"app"})
    store.revoke(key.id)
    assert KeyStore(database, lambda: NOON + timedelta(days=1)).revoke(key.id).revoked_at == NOON


def test_revoking_nobodys_key_says_where_the_ids_are(store: KeyStore) -> None:
    with pytest.raises(UnknownKeyError, match="keys list"):
        store.revoke("key-0")


def test_another_process_revokes_and_the_next_look_knows(store: KeyStore, database: Database) -> None:
    key, secret = store.create("hub", {"app"})
    assert store.find(secret) == key
    elsewhere = Database(database.path)
    KeyStore(elsewhere).revoke(key.id)
    elsewhere.close()
    found = store.find(secret)
    assert found is not None
    assert found.revoked_at is not None


def test_a_key_is_good_until_it_expires(store: KeyStore) -> None:
    key, _ = store.create("guest", {"read"}, NOON + timedelta(days=1))
    assert key.active(NOON + timedelta(hours=23))
    assert not key.active(NOON + timedelta(days=1))


def test_an_expired_key_still_keeps_the_door_shut(store: KeyStore) -> None:
    assert not store.in_use()
    key, _ = store.create("guest", {"read"}, NOON - timedelta(days=1))
    assert store.in_use()
    assert not store.any_active()
    store.revoke(key.id)
    assert not store.in_use()


def test_keys_are_listed_in_the_order_in_which_they_were_made(store: KeyStore) -> None:
    made = [store.create(name, {"read"})[0] for name in ("b", "a", "b")]
    assert list(store.list()) == made


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 101, "\x1b[31mred"])
def test_a_name_that_would_spoil_a_log_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidParameterError, match="name"):
        store.create(name, {"read"})


def test_a_digest_is_compared_in_constant_time(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides is `hmac.compare_digest`: were it to say no, the row that the index found would not do."""
    _, secret = store.create("hub", {"app"})
    compared: list[tuple[str, str]] = []

    def never(one: str, other: str) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", never)
    assert store.find(secret) is None
    assert compared == [(keys.digest_of(secret), keys.digest_of(secret))]


def test_nothing_else_compares_secrets_or_digests() -> None:
    compares = [node for node in ast.walk(ast.parse(inspect.getsource(keys))) if isinstance(node, ast.Compare)]
    names = {name.id for node in compares for name in ast.walk(node) if isinstance(name, ast.Name)}
    assert not names & {"secret", "digest", "found", "rows"}
