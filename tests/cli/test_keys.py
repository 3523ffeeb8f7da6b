"""`adapter-service keys`, as its user sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapter_service.auth import KeyStore
from adapter_service.cli.main import app
from adapter_service.database import Database

runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyStore]:
    """What a running service would see of the same state folder."""
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path))
    database = Database(tmp_path / "service.db")
    yield KeyStore(database)
    database.close()


def test_a_created_key_stands_alone_on_standard_output(keys: KeyStore) -> None:
    result = runner.invoke(app, ["keys", "create", "ci", "--scope", "app"])
    assert result.exit_code == 0
    secret = result.stdout.removesuffix("\n")
    assert re.fullmatch(r"ask_[\w-]{43}", secret)
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.scopes, found.expires_at) == ("ci", frozenset({"app"}), None)
    assert found.id in result.stderr
    assert "from now on every request needs a key" in result.stderr
    assert secret not in result.stderr


def test_the_first_key_alone_changes_who_is_answered(keys: KeyStore) -> None:
    keys.create("first", {"admin"})
    assert "from now on" not in runner.invoke(app, ["keys", "create", "ci", "--scope", "read"]).stderr


def test_a_narrow_terminal_does_not_break_a_key(keys: KeyStore) -> None:
    result = runner.invoke(app, ["keys", "create", "ci", "--scope", "app"], env={"COLUMNS": "20"})
    assert keys.find(result.stdout.removesuffix("\n")) is not None


def test_a_key_may_expire(keys: KeyStore) -> None:
    result = runner.invoke(app, ["keys", "create", "guest", "--scope", "read", "--expires-days", "30"])
    found = keys.find(result.stdout.strip())
    assert found is not None
    assert found.expires_at is not None
    assert round((found.expires_at - found.created_at).total_seconds()) == 30 * 86_400
    assert f"until {found.expires_at:%Y-%m-%d}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scope", "root"], "unknown scope 'root'"),
        (["--scope", "node:a/b"], "no node's id"),
        (["--scope", "app", "--scope", "node:kitchen"], "do not go together"),
        ([], "--scope"),
        (["--scope", "app", "--expires-days", "0"], "expires-days"),
    ],
)
def test_what_will_not_do_makes_no_key(keys: KeyStore, arguments: list[str], says: str) -> None:
    result = runner.invoke(app, ["keys", "create", "hub", *arguments])
    assert (result.exit_code != 0, result.stdout) == (True, "")
    assert says in result.stderr
    assert not keys.list()


def test_keys_are_listed_with_what_became_of_them_and_never_shown(keys: KeyStore) -> None:
    _, secret = keys.create("hub", {"app"})
    gone, _ = keys.create("old hub", {"node:kitchen"})
    keys.revoke(gone.id)
    shown = runner.invoke(app, ["keys", "list"]).stdout
    assert re.search(r"hub .* app .* active", shown)
    assert re.search(rf"{gone.id} .* old hub .* node:kitchen .* revoked 20", shown)
    assert secret not in shown


def test_without_keys_the_list_says_who_may(keys: KeyStore) -> None:
    assert "peers on this machine may everything" in runner.invoke(app, ["keys", "list"]).stdout


def test_a_revoked_key_is_good_no_more(keys: KeyStore) -> None:
    key, secret = keys.create("hub", {"app"})
    result = runner.invoke(app, ["keys", "revoke", key.id])
    assert f"{key.id} (hub) is revoked" in result.stdout
    assert "no key is left" in result.stdout
    found = keys.find(secret)
    assert found is not None
    assert found.revoked_at is not None


def test_revoking_nobodys_key_says_where_the_ids_are(keys: KeyStore) -> None:
    result = runner.invoke(app, ["keys", "revoke", "key-0"])
    assert (result.exit_code, "keys list" in result.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--host", "::"], ["--host", "hub.example"]])  # noqa: S104
def test_no_address_that_others_reach_is_served_without_a_key(keys: KeyStore, arguments: list[str]) -> None:
    result = runner.invoke(app, ["serve", *arguments])
    assert result.exit_code == 1
    assert f"'{arguments[1]}' is an address that other machines reach" in result.stderr
    assert "adapter-service keys create" in result.stderr


def test_others_are_not_let_in_by_the_settings_without_a_key(keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_SECURITY__LOOPBACK_ONLY", "false")
    result = runner.invoke(app, ["serve"])
    assert (result.exit_code, "'security.loopback_only' is false" in result.stderr) == (1, True)
