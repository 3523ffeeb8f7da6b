"""The kind `qdrant`: an embedded folder, an HTTP server in front of one, and a real server at QDRANT_URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest
from qdrant_client import QdrantClient, models

from adapter_service.connectors import qdrant_clients
from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SettingsError, SourceFormatError, SourceUnreachableError
from tests.connectors.conftest import open_kind
from tests.connectors.qdrant_server import QdrantServer
from tests.connectors.server import FileServer

TEXTS = [f"text {i}" for i in range(25)]
# Numbers and UUIDs may stand in one collection; numbers come first.
IDS: list[int | str] = [*range(0, 30, 2), *sorted(str(uuid5(NAMESPACE_URL, str(i))) for i in range(10))]

OpenQdrant = Callable[..., Connector]


def fill(client: QdrantClient, collection: str, payloads: list[dict[str, Any]]) -> None:
    client.create_collection(collection, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    points = [models.PointStruct(id=i, vector=[0.0, 1.0], payload=p) for i, p in zip(IDS, payloads, strict=False)]
    # Not in the order of their ids, which is the order of the stream.
    client.upsert(collection, points[::-1])


def fill_folder(folder: Path, payloads: list[dict[str, Any]], collection: str = "notes") -> None:
    with closing(QdrantClient(path=str(folder))) as client:
        fill(client, collection, payloads)


@pytest.fixture
def qdrant() -> Iterator[QdrantServer]:
    server = QdrantServer()
    httpd = server.start()
    yield server
    httpd.shutdown()
    httpd.server_close()
    server.client.close()


@pytest.fixture(params=["embedded", "http", "server"])
def open_qdrant(request: pytest.FixtureRequest, tmp_path: Path, qdrant: QdrantServer) -> Iterator[OpenQdrant]:
    """Opens payloads as a collection of each sort; of the real server only where there is one."""
    collection = f"notes-{uuid4().hex[:8]}"
    if request.param == "server" and "QDRANT_URL" not in os.environ:
        pytest.skip("QDRANT_URL names no server")

    def open_it(payloads: list[dict[str, Any]], **options: Any) -> Connector:
        shared = {"collection": collection, "page_points": 4, **options}
        if request.param == "embedded":
            fill_folder(tmp_path / "folder", payloads, collection)
            return open_kind("qdrant", folder=tmp_path, path="folder", **shared)
        if request.param == "http":
            fill(qdrant.client, collection, payloads)
            return open_kind("qdrant", url=qdrant.url, backoff_seconds=0, **shared)
        with closing(QdrantClient(url=os.environ["QDRANT_URL"])) as client:
            fill(client, collection, payloads)
        return open_kind("qdrant", url=os.environ["QDRANT_URL"], **shared)

    yield open_it
    if request.param == "server":
        with closing(QdrantClient(url=os.environ["QDRANT_URL"])) as client:
            client.delete_collection(collection)


def texts(connector: Connector) -> list[str]:
    return [sample.completion for _, sample in connector.stream()]


def test_payloads_come_in_the_order_of_their_ids_and_resume_at_each(open_qdrant: OpenQdrant) -> None:
    connector = open_qdrant([{"text": text} for text in TEXTS])
    pairs = list(connector.stream())
    assert [sample.completion for _, sample in pairs] == TEXTS
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=json.loads(json.dumps(cursor)))) == pairs[i + 1 :]


def test_a_payload_is_mapped_like_any_record(open_qdrant: OpenQdrant) -> None:
    payload = {"page_content": "नमस्ते", "metadata": {"lang": "Hindi"}}
    fields = {"text": "page_content", "language": "metadata.lang"}
    [(_, sample)] = open_qdrant([payload], fields=fields).stream()
    assert (sample.completion, sample.language) == ("नमस्ते", "hi")


def test_the_field_of_the_text_may_be_given_alone(open_qdrant: OpenQdrant) -> None:
    assert texts(open_qdrant([{"body": "one"}], payload_field="body")) == ["one"]


def test_a_payload_without_the_field_is_a_bad_record(open_qdrant: OpenQdrant) -> None:
    connector = open_qdrant([{"text": "one"}, {"other": "two"}, {}, {"text": "four"}])
    tally = Tally("notes", max_skipped_fraction=0.5)
    assert [sample.completion for _, sample in tallied(connector, tally)] == ["one", "four"]
    assert tally.counts()["reasons"] == {"no field 'text'": 2}


def test_a_check_counts_the_points(open_qdrant: OpenQdrant) -> None:
    found = open_qdrant([{"text": text} for text in TEXTS]).check()
    assert "about 25 point(s); first sample: 'text 0'" in found


def test_a_point_that_is_gone_does_not_stop_a_resumed_stream(qdrant: QdrantServer) -> None:
    fill(qdrant.client, "notes", [{"text": text} for text in TEXTS])
    connector = open_kind("qdrant", url=qdrant.url, collection="notes", page_points=4)
    cursor, _ = list(connector.stream())[9]
    qdrant.client.delete("notes", points_selector=[IDS[9]])
    assert [sample.completion for _, sample in connector.stream(after=cursor)] == TEXTS[10:]


def test_a_page_is_no_longer_than_asked(qdrant: QdrantServer) -> None:
    fill(qdrant.client, "notes", [{"text": text} for text in TEXTS])
    stream = open_kind("qdrant", url=qdrant.url, collection="notes", page_points=4).stream()
    for _ in range(4):
        next(stream)
    assert [request["limit"] for request in qdrant.requests] == [4]
    assert qdrant.requests[0]["with_vector"] is False


def test_a_busy_server_is_asked_again(qdrant: QdrantServer) -> None:
    fill(qdrant.client, "notes", [{"text": "one"}])
    options: dict[str, Any] = {"url": qdrant.url, "collection": "notes", "backoff_seconds": 0}
    qdrant.busy = 3
    assert texts(open_kind("qdrant", retry_attempts=3, **options)) == ["one"]
    qdrant.busy = 3
    with pytest.raises(SourceUnreachableError, match=r"answered 503 \(3 attempts\)"):
        texts(open_kind("qdrant", retry_attempts=2, **options))


def test_a_server_that_names_a_pause_is_asked_again_after_it(qdrant: QdrantServer) -> None:
    fill(qdrant.client, "notes", [{"text": "one"}])
    qdrant.busy, qdrant.retry_after = 1, "0"
    assert texts(open_kind("qdrant", url=qdrant.url, collection="notes", backoff_seconds=0)) == ["one"]


def test_a_missing_key_is_told_with_its_option(
    qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    fill(qdrant.client, "notes", [{"text": "one"}])
    qdrant.api_key = "secret-key"
    with pytest.raises(SourceUnreachableError, match=r"answered 401; give a key .* `api_key: \$\{QDRANT_API_KEY\}`"):
        texts(open_kind("qdrant", url=qdrant.url, collection="notes"))
    monkeypatch.setenv("QDRANT_API_KEY", "secret-key")
    with pytest.warns(UserWarning, match="insecure connection"):
        found = texts(open_kind("qdrant", url=qdrant.url, collection="notes", api_key="${QDRANT_API_KEY}"))
    assert found == ["one"]


def test_an_unknown_collection_of_a_server_is_told_with_those_that_there_are(qdrant: QdrantServer) -> None:
    fill(qdrant.client, "notes", [{"text": "one"}])
    with pytest.raises(SourceUnreachableError, match=r"no collection 'note'; did you mean 'notes'\? .*: notes"):
        texts(open_kind("qdrant", url=qdrant.url, collection="note"))


def test_an_unknown_collection_of_a_folder_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    fill_folder(tmp_path / "folder", [{"text": "one"}])
    connector = open_kind("qdrant", path=str(tmp_path / "folder"), collection="note")
    with pytest.raises(SourceUnreachableError, match=r"the folder 'folder' has no collection 'note'.*: notes"):
        texts(connector)


def test_nobody_at_the_address_is_told(free_port: int) -> None:
    connector = open_kind("qdrant", host="127.0.0.1", port=free_port, collection="notes", retry_attempts=0)
    with pytest.raises(SourceUnreachableError, match=rf"http://127.0.0.1:{free_port} cannot be reached: "):
        texts(connector)


def test_a_server_that_is_none_of_qdrants_is_told(server: FileServer) -> None:
    connector = open_kind("qdrant", url=server.url, collection="notes", retry_attempts=0)
    with pytest.raises(SourceUnreachableError, match="answered 501"):
        texts(connector)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    connector = open_kind("qdrant", path=str(tmp_path / "gone"), collection="notes")
    with pytest.raises(SourceUnreachableError, match=r"'gone' is no folder that qdrant-client wrote"):
        texts(connector)
    assert not (tmp_path / "gone").exists()


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    fill_folder(tmp_path / "folder", [{"text": "one"}])
    (tmp_path / "folder" / "meta.json").write_text("{")
    with pytest.raises(SourceFormatError, match="not as qdrant-client writes it"):
        texts(open_kind("qdrant", path=str(tmp_path / "folder"), collection="notes"))


def test_a_folder_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_clients, "MAX_FOLDER_BYTES", 1000)
    fill_folder(tmp_path / "folder", [{"text": "one"}])
    connector = open_kind("qdrant", path=str(tmp_path / "folder"), collection="notes")
    with pytest.raises(SourceUnreachableError, match="run a Qdrant server and give its `url`"):
        texts(connector)


def test_several_streams_share_one_folder_and_leave_it_unlocked(tmp_path: Path) -> None:
    fill_folder(tmp_path / "folder", [{"text": text} for text in TEXTS])
    connector = open_kind("qdrant", path=str(tmp_path / "folder"), collection="notes")
    first, second = connector.stream(), connector.stream()
    assert next(first) == next(second)
    del first
    assert len(list(second)) == len(TEXTS) - 1
    with closing(QdrantClient(path=str(tmp_path / "folder"))) as client:
        assert client.count("notes").count == len(TEXTS)


# Refused, qdrant-client leaves its lock file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_that_another_process_holds_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    fill_folder(folder, [{"text": "one"}])
    connector = open_kind("qdrant", path=str(folder), collection="notes")
    holding = (
        "import sys; from qdrant_client import QdrantClient; client = QdrantClient(path=sys.argv[1]); "
        "print(flush=True); input(); client.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(SourceUnreachableError, match="is in use by another process"):
            texts(connector)
        holder.communicate("\n")


def test_the_missing_extra_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(SettingsError, match=r"pip install adapter-service\[qdrant\]"):
        open_kind("qdrant", url="http://localhost:6333", collection="notes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give the server as `url`"),
        ({"url": "http://a", "path": "b"}, "give the server as `url`"),
        ({"host": "http://a"}, "`host` is a name without http://"),
        ({"url": "localhost:6333"}, "`url` is no http:// or https:// address"),
        ({"host": "a", "payload_field": "body", "format": "chat"}, "`payload_field` names the text of format 'text'"),
        ({"host": "a", "payload_field": "body", "fields": {"text": "b"}}, "say the rest under `fields` alone"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_kind("qdrant", collection="notes", **options)
