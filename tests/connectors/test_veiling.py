"""What came out of ${VAR} stands in no message of its source."""

from __future__ import annotations

import json

import pytest

from adapter_service.connectors.base import OTHER_LANGUAGE
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import AdapterServiceError, SettingsError, SourceUnreachableError
from tests.connectors.conftest import Open, open_kind
from tests.connectors.server import FileServer

SECRET = "s3cret/hush"  # noqa: S105
PATH = "/key-${MY_TOKEN}/x.jsonl"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)


def message_of(server: FileServer, open_http: Open, **options: object) -> str:
    connector = open_http(PATH, **options)
    with pytest.raises(AdapterServiceError) as caught:
        list(tallied(connector, Tally("corpus", max_skipped_fraction=0.0)))
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_an_address_that_cannot_be_read_is_shown_as_it_was_written(server: FileServer, open_http: Open) -> None:
    message = message_of(server, open_http)
    assert SECRET not in message
    assert "/key-${MY_TOKEN}/x.jsonl: the server answered 404" in message


def test_a_redirect_that_repeats_the_secret_does_not_show_it(server: FileServer, open_http: Open) -> None:
    server.faults.redirect = f"http://127.0.0.1:9/{SECRET}"
    with pytest.raises(SourceUnreachableError) as caught:
        list(open_http("/redirect", file_format="jsonl", note="${MY_TOKEN}").stream())
    assert SECRET not in str(caught.value)
    assert "http://127.0.0.1:9/${MY_TOKEN}" in str(caught.value)


def test_what_check_finds_and_where_samples_lie_is_veiled(server: FileServer, open_http: Open) -> None:
    server.put(f"/key-{SECRET}/x.jsonl", b'{"text": "good morning"}\n')
    connector = open_http(PATH)
    [(cursor, sample)] = connector.stream()
    shown = f"{connector.check()} {sample.origin} {json.dumps(cursor)}"
    assert SECRET not in shown
    assert "${MY_TOKEN}" in sample.origin


def test_an_observer_is_not_told_the_secret(
    server: FileServer, open_http: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server.put(f"/key-{SECRET}/x.jsonl", b"bad\n")
    message_of(server, open_http)
    assert SECRET not in caplog.text
    assert "skipped corpus:" in caplog.text


def test_an_option_that_is_refused_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        open_kind("http", url="https://data.example/x", max_samples="${MY_TOKEN}")
    assert SECRET not in str(caught.value)


def test_a_secret_that_is_no_header_is_not_repeated(
    server: FileServer, open_http: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", f"{SECRET}\n")
    with pytest.raises(SourceUnreachableError, match="header") as caught:
        list(open_http(headers={"X-Key": "${MY_TOKEN}"}).stream())
    assert SECRET not in str(caught.value)


def test_a_default_that_stands_in_the_file_is_no_secret(open_http: Open) -> None:
    with pytest.raises(SourceUnreachableError, match=r"/key-public/x\.jsonl"):
        list(open_http("/key-${UNSET_TOKEN:-public}/x.jsonl").stream())


def test_a_value_of_a_few_letters_is_veiled_as_a_whole_word_alone(
    server: FileServer, open_http: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "40")
    message = message_of(server, open_http)
    assert "/key-${MY_TOKEN}/x.jsonl" in message
    assert "answered 404" in message


def test_a_value_that_is_a_word_leaves_the_words_of_a_filter_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "other")
    rows = [{"text": "one", "language": "hi"}, {"text": "two", "language": "ta"}]
    tally = Tally("corpus", max_skipped_fraction=0)
    list(tallied(open_kind("memory", items=rows, note="${MY_TOKEN}", only=("hi",)), tally))
    assert (tally.bad, tally.counts()["reasons"]) == (0, {OTHER_LANGUAGE: 1})
