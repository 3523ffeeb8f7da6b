from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.connectors.raw import is_raw, open_raw
from adapter_service.errors import ForbiddenError, InvalidParameterError, SourceUnreachableError
from tests.connectors.server import FileServer

ALLOWED = ["https://data.example.org/corpora/"]


@pytest.mark.parametrize(
    "uri",
    [
        "https://elsewhere.example/corpora/a.jsonl",
        "https://data.example.org.elsewhere.example/corpora/a.jsonl",
        "https://data.example.org:8443/corpora/a.jsonl",
        "https://data.example.org@elsewhere.example/corpora/a.jsonl",
        "https://me@data.example.org/corpora/a.jsonl",
        "http://data.example.org/corpora/a.jsonl",
        "https://data.example.org/corpora-private/a.jsonl",
        "https://data.example.org/corpora/../private/a.jsonl",
        "https://data.example.org/corpora/%2e%2e/private/a.jsonl",
        "https://data.example.org/corpora/..%5cprivate/a.jsonl",
    ],
)
def test_an_address_outside_the_allow_list_is_refused(uri: str) -> None:
    with pytest.raises(ForbiddenError, match="not on the allow-list"):
        open_raw(uri, ALLOWED)


def test_an_address_under_a_prefix_is_opened() -> None:
    open_raw("https://data.example.org/corpora/2024/a.jsonl.gz?part=1", ALLOWED)
    open_raw("https://DATA.example.org/corpora", ALLOWED)


def test_an_empty_allow_list_allows_nothing() -> None:
    with pytest.raises(ForbiddenError):
        open_raw("https://data.example.org/corpora/a.jsonl", [])


def test_a_raw_source_never_reaches_a_private_address(server: FileServer) -> None:
    url = server.put("/a.jsonl", b'{"text": "secret"}')
    with pytest.raises(SourceUnreachableError, match="private address"):
        list(open_raw(url, [server.url]).stream())
    assert not server.requests


def test_a_raw_address_reads_no_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TOKEN", raising=False)
    open_raw("https://data.example.org/corpora/${API_TOKEN}.jsonl", None)


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "file:a.txt", "/etc/passwd", "a.txt"])
def test_a_file_is_never_named_by_a_caller(uri: str) -> None:
    with pytest.raises(ForbiddenError, match="files are read only from configured sources"):
        open_raw(uri, ["file:", "/"])


def test_the_command_line_may_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    for uri in (str(tmp_path / "a.txt"), f"file://{tmp_path}/a.txt"):
        [(_, sample)] = open_raw(uri, None, allow_local=True).stream()
        assert sample.completion == "one"


def test_other_schemes_say_what_to_do() -> None:
    with pytest.raises(InvalidParameterError, match=r"'ftp://host/a'.*configure a source"):
        open_raw("ftp://host/a", None)


def test_a_configured_name_is_not_taken_for_an_address() -> None:
    assert not is_raw("multilingual_corpus")
    assert all(map(is_raw, ("https://host/a", "hf:user/set", "s3://bucket/key", "file:a.txt")))
