"""Tokens: good for what they say, from whoever made them, until their time."""

from __future__ import annotations

import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.delivery.signed_urls import KEY_FILE, Grant, UrlSigner, signing_key
from adapter_service.errors import BadLinkError, StorageError
from tests.delivery.shipping import START, Clock

GRANT = Grant("adapters/kitchen/base/hash/20261129T120000Z/adapter.zip", "kitchen", START + timedelta(hours=48))
KEY = b"k" * 32


@given(object_key=st.text(max_size=300), node_id=st.text(max_size=100), seconds=st.integers(1, 604_800))
def test_a_token_says_what_it_was_made_of(object_key: str, node_id: str, seconds: int) -> None:
    signer, grant = UrlSigner(KEY, Clock()), Grant(object_key, node_id, START + timedelta(seconds=seconds))
    token = signer.token(grant)
    assert signer.grant(token) == grant
    assert token.replace("-", "").replace("_", "").replace(".", "").isalnum()


def test_a_token_ends_at_its_time_and_is_good_before_as_often_as_one_likes() -> None:
    clock = Clock()
    signer = UrlSigner(KEY, clock)
    token = signer.token(GRANT)
    clock.now = GRANT.expires_at - timedelta(seconds=1)
    assert signer.grant(token) == signer.grant(token) == GRANT
    clock.now = GRANT.expires_at
    with pytest.raises(BadLinkError, match="was good until 2026-12-01T12:00:00"):
        signer.grant(token)


def test_no_letter_of_a_token_can_be_changed() -> None:
    signer = UrlSigner(KEY, Clock())
    token = signer.token(GRANT)
    for place, letter in enumerate(token):
        other = token[:place] + ("A" if letter != "A" else "B") + token[place + 1 :]
        # The last letter of base64 has bits that mean nothing.
        if place < len(token) - 1:
            with pytest.raises(BadLinkError, match="not made by this service, or was altered; ask for the job again"):
                signer.grant(other)


@pytest.mark.parametrize("token", ["", ".", "a.b", "x" * 5000, "ü", "\0", "../../etc/passwd", "a.b.c"])
def test_what_is_no_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(BadLinkError) as error:
        UrlSigner(KEY, Clock()).grant(token)
    assert len(token) < 5 or token not in str(error.value)


def test_another_services_token_and_one_for_another_purpose_are_refused() -> None:
    signer = UrlSigner(KEY, Clock())
    with pytest.raises(BadLinkError):
        signer.grant(UrlSigner(b"j" * 32, Clock()).token(GRANT))
    from itsdangerous import URLSafeSerializer

    with pytest.raises(BadLinkError):
        signer.grant(str(URLSafeSerializer(KEY, salt="session").dumps([GRANT.object_key, "kitchen", 4_000_000_000])))


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = signing_key(tmp_path / "state")
    assert len(key) == 32
    assert signing_key(tmp_path / "state") == key
    assert signing_key(tmp_path / "other") != key
    assert stat.S_IMODE((tmp_path / "state" / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == [KEY_FILE]


def test_many_that_want_the_first_key_get_the_same(tmp_path: Path) -> None:
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(signing_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_damaged_key_is_told_of_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(StorageError, match=r"url_signing\.key .* has 5 bytes, and a key has 32; remove the file"):
        signing_key(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == b"short"
