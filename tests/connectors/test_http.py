from __future__ import annotations

import gzip
import itertools
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest
import requests

from adapter_service.connectors import http_file, ranges
from adapter_service.connectors.base import Connector
from adapter_service.connectors.outbound import Outbound, shown
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SettingsError, SourceFormatError, SourceUnreachableError
from tests.connectors.conftest import Open, open_kind
from tests.connectors.server import FileServer

LINES = [f"line {i} of the file" for i in range(200)]
CONTENT = "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode()


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MIN_RANGE_BYTES", 1000)
    monkeypatch.setattr(http_file, "SMALL_FILE_BYTES", 1000)


def texts(connector: Connector) -> list[str]:
    return [sample.completion for _, sample in connector.stream()]


def test_a_file_is_fetched_range_by_range(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    assert texts(open_http()) == LINES
    assert [r["range"] for r in server.requests[:2]] == ["bytes=0-999", "bytes=1000-1999"]


def test_a_stream_that_is_left_has_not_read_the_rest(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    list(itertools.islice(open_http().stream(), 3))
    assert len(server.requests) == 1


def test_a_resumed_stream_asks_only_for_the_rest(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    cursor, _ = list(open_http().stream())[-5]
    server.requests.clear()
    assert [s.completion for _, s in open_http().stream(after=cursor)] == LINES[-4:]
    assert [r["if-range"] for r in server.requests] == ['"v1"']


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_dropped_connections_are_taken_up_at_the_byte_reached(server: FileServer, open_http: Open, suffix: str) -> None:
    server.put(f"/a.jsonl{suffix}", gzip.compress(CONTENT) if suffix else CONTENT)
    server.faults.drops = 3
    assert texts(open_http(f"/a.jsonl{suffix}")) == LINES


def test_attempts_are_counted_anew_after_each_byte_of_progress(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.drops = 9
    assert texts(open_http(retry_attempts=1)) == LINES


def test_a_server_without_ranges_is_read_and_taken_up_too(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.ranges, server.faults.drops = False, 2
    assert texts(open_http()) == LINES
    cursor, _ = list(open_http().stream())[100]
    assert [s.completion for _, s in open_http().stream(after=cursor)] == LINES[101:]


def test_a_busy_server_is_asked_again(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy = 3
    assert texts(open_http(retry_attempts=3)) == LINES


def test_a_server_that_stays_busy_is_given_up(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy = 100
    with pytest.raises(SourceUnreachableError, match=r"503 Service Unavailable \(3 attempts\)"):
        texts(open_http(retry_attempts=2))


def test_the_wait_between_attempts_doubles() -> None:
    waits: list[float] = []
    options = http_file.HttpOptions(attempts=4, backoff_seconds=0.5, sleep=waits.append)
    url = f"http://127.0.0.1:{_free_port()}/a.jsonl"
    file = http_file.HttpFile(url, lambda: Outbound(headers={}, timeout_seconds=1, allow_private=True), options)
    with pytest.raises(SourceUnreachableError):
        next(file.blocks(0))
    assert waits == [0.5, 1.0, 2.0]


def read_with_pauses(server: FileServer, waits: list[float]) -> bytes:
    options = http_file.HttpOptions(attempts=4, backoff_seconds=0.5, sleep=waits.append)
    url = f"{server.url}/a.jsonl"
    file = http_file.HttpFile(url, lambda: Outbound(headers={}, timeout_seconds=9, allow_private=True), options)
    return b"".join(file.blocks(0))


def test_the_pause_that_a_busy_server_asks_for_is_kept(server: FileServer) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy, server.faults.retry_after = 2, "7"
    waits: list[float] = []
    assert read_with_pauses(server, waits) == CONTENT
    assert waits == [7.0, 7.0]


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5"])
def test_a_pause_in_the_past_or_in_other_words_is_that_of_any_failure(server: FileServer, asked: str) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy, server.faults.retry_after = 1, asked
    waits: list[float] = []
    assert read_with_pauses(server, waits) == CONTENT
    assert waits == [0.5]


def test_a_pause_until_a_date_is_kept(server: FileServer) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy = 1
    server.faults.retry_after = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    waits: list[float] = []
    assert read_with_pauses(server, waits) == CONTENT
    assert 0.5 < waits[0] <= 60


def test_a_pause_that_is_too_long_is_told_instead(server: FileServer) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.busy, server.faults.retry_after = 1, "3600"
    waits: list[float] = []
    with pytest.raises(SourceUnreachableError, match=r"503.*asks to come back in 3600 s, more than 120 s are waited"):
        read_with_pauses(server, waits)
    assert not waits


def test_a_few_bytes_for_each_connection_are_no_progress(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT[:400])
    server.faults.drops = 100
    with pytest.raises(SourceUnreachableError, match=r"\(4 attempts\)"):
        texts(open_http())
    froms = [request["range"].partition("-")[0] for request in server.requests]
    assert froms == ["bytes=0", "bytes=200", "bytes=300", "bytes=350"]


def test_a_part_of_a_file_is_one_request(server: FileServer) -> None:
    url = server.put("/a.jsonl", CONTENT)
    connect = partial(Outbound, headers={}, timeout_seconds=9, allow_private=True)
    with http_file.HttpFile(url, connect, http_file.HttpOptions()) as file:
        assert b"".join(file.blocks(1500, 4000)) == CONTENT[1500:4000]
        assert b"".join(file.blocks(len(CONTENT) - 5, len(CONTENT) + 5)) == CONTENT[-5:]
        assert file.stamp["size"] == len(CONTENT)
    at_the_end = f"bytes={len(CONTENT) - 5}-{len(CONTENT) + 4}"
    assert [request["range"] for request in server.requests] == ["bytes=1500-3999", at_the_end]


def test_answers_with_nothing_in_them_are_given_up(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.empty_answers = True
    with pytest.raises(SourceUnreachableError, match="answered with nothing"):
        texts(open_http())


def test_a_stalling_server_is_given_up(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.trickle_seconds = 0.01
    with pytest.raises(SourceUnreachableError, match=r"only .* bytes came within"):
        texts(open_http(timeout_seconds=0.1, retry_attempts=0))


def test_an_unreachable_host_is_named(open_http: Open) -> None:
    port = _free_port()
    with pytest.raises(SourceUnreachableError, match=rf"127.0.0.1:{port}/a.jsonl cannot be read.*refused"):
        texts(open_http(url=f"http://127.0.0.1:{port}/a.jsonl"))


def test_a_host_whose_answer_would_tell_the_format_is_tried_as_often_and_named(
    server: FileServer, open_http: Open
) -> None:
    server.put("/export", CONTENT)
    server.content_type = "application/x-ndjson"
    server.faults.busy = 2
    assert texts(open_http("/export")) == LINES
    port = _free_port()
    with pytest.raises(SourceUnreachableError, match=rf"127.0.0.1:{port}/export cannot be read.*refused.*4 attempts"):
        texts(open_http(url=f"http://127.0.0.1:{port}/export"))


@pytest.mark.parametrize(("path", "said"), [("/none.jsonl", "404.*check the address"), ("/forbidden", "403.*token")])
def test_a_refusal_says_what_to_do_and_is_not_repeated(
    server: FileServer, open_http: Open, path: str, said: str
) -> None:
    with pytest.raises(SourceUnreachableError, match=said):
        texts(open_http(path, file_format="jsonl"))
    assert len(server.requests) == 1


def test_a_file_that_changed_since_the_cursor_is_an_error(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    cursor, _ = next(open_http().stream())
    server.faults.etag = '"v2"'
    with pytest.raises(SourceFormatError, match="its etag was '\"v1\"' and is '\"v2\"'"):
        list(open_http().stream(after=cursor))


def test_a_file_that_changes_between_ranges_is_an_error(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    server.faults.etag = ""
    stream = open_http().stream()
    next(stream)
    server.put("/a.jsonl", CONTENT + CONTENT)
    with pytest.raises(SourceFormatError, match="its size was"):
        list(stream)


def test_an_empty_file_has_no_records(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", b"")
    assert texts(open_http()) == []


def test_the_format_may_come_from_the_content_type(server: FileServer, open_http: Open) -> None:
    server.put("/api/records", b'{"data": [{"text": "a"}, {"text": "b"}]}')
    server.content_type = "application/json; charset=utf-8"
    older = open_http(base_url=server.url, endpoint="/api/records", records="data")
    assert texts(older) == ["a", "b"]


def test_headers_take_their_secrets_from_the_environment(
    server: FileServer, open_http: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/a.jsonl", CONTENT)
    monkeypatch.setenv("CORPUS_TOKEN", "s3cret")
    next(open_http(headers={"Authorization": "Bearer ${CORPUS_TOKEN}"}).stream())
    assert server.requests[0]["authorization"] == "Bearer s3cret"


def test_a_private_host_is_refused_unless_configured(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT)
    with pytest.raises(SourceUnreachableError, match=r"private address.*allow_private: true"):
        texts(open_http(allow_private=False))
    assert not server.requests


def test_a_redirect_never_reaches_a_private_address(server: FileServer, open_http: Open) -> None:
    server.faults.redirect = server.put("/a.jsonl", CONTENT)
    with pytest.raises(SourceUnreachableError, match="private address"):
        texts(open_http("/redirect", file_format="jsonl"))
    assert [r["path"] for r in server.requests] == ["/redirect"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "2130706433",  # noqa: S104
             "168.63.129.16", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fd00::1]"]
)  # fmt: skip
def test_no_form_of_a_private_address_is_connected_to(host: str) -> None:
    with (
        Outbound(headers={}, timeout_seconds=1) as outbound,
        pytest.raises(SourceUnreachableError, match="private address"),
    ):
        outbound.get(f"http://{host}/a.jsonl", {})


def test_a_redirect_to_another_host_does_not_take_the_headers_along(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, str]]] = []
    with Outbound(headers={"X-Key": "s3cret"}, timeout_seconds=1) as outbound:
        answers = iter([_redirect("https://other.example/b"), _redirect("//other.example/c"), _ok()])

        def send(session: Any, url: str, headers: dict[str, str]) -> requests.Response:
            sent.append((url, headers))
            return next(answers)

        monkeypatch.setattr(outbound, "_send", send)
        outbound.get("https://first.example/a", {"Range": "bytes=0-9"})
    assert [(url, "X-Key" in headers) for url, headers in sent] == [
        ("https://first.example/a", True),
        ("https://other.example/b", False),
        ("https://other.example/c", False),
    ]


def test_a_circle_of_redirects_ends(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Outbound(headers={}, timeout_seconds=1) as outbound:
        monkeypatch.setattr(outbound, "_send", lambda *_: _redirect("/again"))
        with pytest.raises(SourceUnreachableError, match="more than 5 times"):
            outbound.get("https://first.example/a", {})


def test_a_server_that_does_not_tell_where_a_file_ends_may_have_an_empty_one(
    server: FileServer, open_http: Open
) -> None:
    server.put("/a.jsonl", b"")
    server.faults.tells_total = False
    assert texts(open_http()) == []


def test_the_body_of_a_redirect_is_not_waited_for(server: FileServer, open_http: Open) -> None:
    server.faults.redirect = server.put("/a.jsonl", CONTENT)
    server.faults.is_stalling = True
    with pytest.raises(SourceUnreachableError, match="private address"):
        texts(open_http("/redirect", file_format="jsonl", timeout_seconds=0.5, retry_attempts=0))


def test_a_redirect_may_be_written_in_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    with Outbound(headers={}, timeout_seconds=1) as outbound:
        answers = {
            "https://first.example/a": _redirect("/पाठ.jsonl".encode().decode("latin-1")),
            "https://first.example/पाठ.jsonl": _ok(),
        }
        monkeypatch.setattr(outbound, "_send", lambda _, url, __: answers[url])
        assert outbound.get("https://first.example/a", {}).status_code == 200


@pytest.mark.parametrize("to", ["http://[", "http://[::1/a.jsonl", "//]"])
def test_a_redirect_to_no_address_is_told(server: FileServer, open_http: Open, to: str) -> None:
    server.faults.redirect = to
    with pytest.raises(SourceUnreachableError, match=r"/redirect redirects to what is no address.*give the final"):
        texts(open_http("/redirect", file_format="jsonl"))


def test_messages_show_neither_password_nor_query() -> None:
    assert shown("https://me:pw@host.example/a?key=1") == "https://host.example/a"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give the address as `url`"),
        ({"url": "ftp://host/a.jsonl"}, "no http:// or https:// URL"),
        ({"url": "https://host/a.jsonl", "header": {}}, "did you mean 'headers'"),
    ],
)
def test_a_faulty_entry_is_refused_when_it_is_opened(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_kind("http", **options)


def test_counts_are_right_across_ranges(server: FileServer, open_http: Open) -> None:
    server.put("/a.jsonl", CONTENT + b'{"text": "half')
    tally = Tally("corpus", max_skipped_fraction=0.1)
    list(tallied(open_http(), tally))
    assert tally.counts() == {
        "read": 201, "used": 200, "skipped": 1,
        "reasons": {"not valid JSON": 1}, "languages": {"unknown": 200},
        "skipped_languages": {"unknown": 1},
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _redirect(to: str) -> requests.Response:
    response = _ok()
    response.status_code = 302
    response.headers["location"] = to
    return response


def _ok() -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    response.raw = _Nothing()
    return response


class _Nothing:
    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        pass


def test_a_private_address_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with Outbound(headers={}, timeout_seconds=1) as outbound, pytest.raises(SourceUnreachableError):
        outbound.get("http://127.0.0.1/a.jsonl", {})
    assert not caplog.records
