from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.connectors.raw import is_raw, open_raw
from adapter_service.errors import ForbiddenError, InvalidParameterError, SourceUnreachableError
from tests.connectors.hub_server import HubServer
from tests.connectors.server import FileServer

ALLOWED = ["https://data.example.org/corpora/", "s3://corpora/public/", "hf:someone/", "hf:other/texts"]


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
        "s3://corpora/private/a.jsonl",
        "s3://corpora/public-not/a.jsonl",
        "s3://corpora/public/../private/a.jsonl",
        "s3://corpora/publi",
        "s3://elsewhere/public/a.jsonl",
        "hf:someone-else/texts",
        "hf:other/texts2",
        "hf:texts",
    ],
)
def test_an_address_outside_the_allow_list_is_refused(uri: str) -> None:
    with pytest.raises(ForbiddenError, match="not on the allow-list"):
        open_raw(uri, ALLOWED)


def test_an_address_under_a_prefix_is_opened() -> None:
    open_raw("https://data.example.org/corpora/2024/a.jsonl.gz?part=1", ALLOWED)
    open_raw("https://DATA.example.org/corpora", ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://corpora/public/a.jsonl",
        "s3://corpora/public/",
        "s3://corpora/public/2024/",
        "hf:someone/texts",
        "hf:someone/texts@main?config=hi&split=validation",
        "hf:other/texts@v1",
    ],
)
def test_buckets_and_datasets_under_a_prefix_are_opened(uri: str) -> None:
    open_raw(uri, ALLOWED)


def test_a_prefix_of_a_scheme_allows_all_of_it() -> None:
    open_raw("hf:someone/texts", ["hf:"])
    with pytest.raises(ForbiddenError):
        open_raw("s3://corpora/a.jsonl", ["hf:", "s3:"])


@pytest.mark.parametrize(
    "uri", ["https://data.example.org/corpora/a.jsonl", "s3://corpora/a.jsonl", "hf:someone/texts"]
)
def test_an_empty_allow_list_allows_nothing(uri: str) -> None:
    with pytest.raises(ForbiddenError):
        open_raw(uri, [])


def test_a_raw_source_never_reaches_a_private_address(server: FileServer) -> None:
    url = server.put("/a.jsonl", b'{"text": "secret"}')
    with pytest.raises(SourceUnreachableError, match="private address"):
        list(open_raw(url, [server.url]).stream())
    assert not server.requests


@pytest.mark.parametrize("uri", ["s3://corpora/a.jsonl", "s3://corpora/texts/"])
def test_a_raw_bucket_is_not_read_at_a_private_endpoint(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    connector = open_raw(uri, None)
    for read in (connector.check, lambda: list(connector.stream())):
        with pytest.raises(SourceUnreachableError, match="private address"):
            read()
    assert not server.requests


def test_a_raw_dataset_is_not_read_at_a_private_hub(hub: HubServer) -> None:
    hub.put("someone/texts", {"train.jsonl": b'{"text": "secret"}\n'})
    connector = open_raw("hf:someone/texts", ["hf:someone/"])
    for read in (connector.check, lambda: list(connector.stream())):
        with pytest.raises(SourceUnreachableError, match="private address"):
            read()


@pytest.mark.parametrize(
    "uri",
    [
        "s3://corpora/${API_TOKEN}",
        "hf:someone/${API_TOKEN}",
        "hf:a/b@${API_TOKEN}",
        "hf:a/b?config=${API_TOKEN}",
        "hf:a/b?data_dir=%24%7BAPI_TOKEN%7D",
        "hf:a/b?split=$%7bAPI_TOKEN}",
    ],
)
def test_a_variable_in_a_raw_address_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    with pytest.raises(InvalidParameterError) as caught:
        open_raw(uri, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "'' is no name of a bucket"),
        ("s3://Corpora/a.jsonl", "'Corpora' is no name of a bucket"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/a", "is no name of a bucket"),
        ("hf:", "'' is no id of a dataset"),
        ("hf:../etc", "is no id of a dataset"),
        ("hf:/etc/passwd", "is no id of a dataset"),
        ("hf:someone/texts?trust_remote_code=true", r"stand config, data_dir, split, and not 'trust_remote_code'"),
        ("hf:someone/texts?token=x", "not 'token'"),
    ],
)
def test_an_address_that_names_nothing_is_refused(uri: str, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        open_raw(uri, None)


def test_a_raw_address_reads_no_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TOKEN", raising=False)
    open_raw("https://data.example.org/corpora/${API_TOKEN}.jsonl", None)


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "file:a.txt", "file:~nobody-here/a.txt", "/etc/passwd", "a.txt"])
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
