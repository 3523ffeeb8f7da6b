"""A node fetches its adapter by the URL that it was given: whole or in parts, until its time, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapter_service.api.errors import on_service_error
from adapter_service.api.routes.artifacts import router
from adapter_service.auth import APP, KeyStore
from adapter_service.delivery.deliverer import Deliverer
from adapter_service.delivery.deliveries import DeliveryStatus, queue
from adapter_service.delivery.folder_artifacts import FolderArtifacts
from adapter_service.delivery.s3_artifacts import S3Artifacts
from adapter_service.errors import AdapterServiceError
from adapter_service.publishing.s3_endpoint import S3Endpoint
from adapter_service.settings import SecuritySettings
from tests.api.conftest import MakeServices, client_of
from tests.delivery.shipping import Clock, Machine, folder_artifacts, write_tokenizer, write_version_files

BASE = "http://127.0.0.1"


class Hub:
    """A service with one published adapter, and nothing but the route that hands it out."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.machine = Machine(folder / "state", self.clock)
        self.root = folder / "nas"
        self.root.mkdir()
        self.artifacts: FolderArtifacts = folder_artifacts(self.root, self.clock, public_url=BASE)
        self.deliverer: Deliverer = self.machine.deliverer(self.artifacts)
        self.parts = SimpleNamespace(artifacts=self.artifacts, deliveries=self.machine.deliveries)
        app = FastAPI()
        app.state.services = SimpleNamespace(hub=self.parts)
        app.include_router(router)
        app.add_exception_handler(AdapterServiceError, on_service_error)
        self.client = TestClient(app, base_url=BASE)
        self.machine.add_job("job_1")
        self.version = self.machine.train()
        self.machine.queue("job_1", self.version)
        self.deliverer.deliver_due()

    @property
    def url(self) -> str:
        return self.url_of(self.key)

    @property
    def key(self) -> str:
        key = self.machine.delivery().object_key
        assert key is not None
        return key

    @property
    def content(self) -> bytes:
        return (self.root / self.key).read_bytes()

    def url_of(self, key: str, node_id: str = "kitchen-1", expires_at: datetime | None = None) -> str:
        return self.artifacts.url(key, node_id=node_id, expires_at=expires_at or self.clock() + timedelta(hours=48))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    yield made
    made.client.close()
    made.machine.database.close()


def test_a_url_gives_the_adapter_as_often_as_one_likes(hub: Hub) -> None:
    for _ in range(2):
        answer = hub.client.get(hub.url)
        assert (answer.status_code, answer.content) == (200, hub.content)
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="adapter.zip"'
    assert answer.headers["etag"] == f'"{hub.machine.delivery().sha256}"'
    assert answer.headers["cache-control"].startswith("private")


def test_a_head_tells_the_size_alone(hub: Hub) -> None:
    answer = hub.client.head(hub.url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(hub.content)
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "part"), [("0-9", slice(0, 10)), ("100-", slice(100, None)), ("-7", slice(-7, None))]
)
def test_a_download_that_was_cut_short_goes_on(hub: Hub, asked: str, part: slice) -> None:
    answer = hub.client.get(hub.url, headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, hub.content[part])
    assert answer.headers["content-range"].endswith(f"/{len(hub.content)}")


def test_a_part_of_another_version_is_not_mixed_in(hub: Hub) -> None:
    same, ask = hub.client.get(hub.url).headers["etag"], {"Range": "bytes=5-9"}
    assert hub.client.get(hub.url, headers={**ask, "If-Range": same}).status_code == 206
    other = hub.client.get(hub.url, headers={**ask, "If-Range": f'"{"0" * 64}"'})
    assert (other.status_code, other.content) == (200, hub.content)


def test_a_range_beyond_the_end_is_refused(hub: Hub) -> None:
    answer = hub.client.get(hub.url, headers={"Range": "bytes=99999999-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(hub.content)}")


def refused(hub: Hub, url: str) -> tuple[int, str]:
    answer = hub.client.get(url)
    assert str(hub.root) not in answer.text
    return answer.status_code, answer.json()["error"]


def test_a_url_ends_at_its_time(hub: Hub) -> None:
    url = hub.url
    hub.clock.forward(hours=48)
    assert refused(hub, url) == (403, "bad_link")


def test_a_url_cannot_be_changed(hub: Hub) -> None:
    path = urlsplit(hub.url).path
    token = path.split("/")[-2]
    for other in (token[:-4] + "AAAA", token[1:], "x", token.swapcase(), "..%5C..%5Cetc", "%00", "a" * 5000):
        assert refused(hub, path.replace(token, other)) == (403, "bad_link")


def test_what_was_deleted_is_not_there(hub: Hub) -> None:
    url = hub.url
    hub.machine.deliveries.acknowledge("job_1")
    hub.deliverer.delete_due()
    assert hub.machine.delivery().status is DeliveryStatus.DELETED
    assert refused(hub, url) == (404, "unknown_artifact")


def test_what_somebody_else_deleted_is_not_there(hub: Hub) -> None:
    (hub.root / hub.key).unlink()
    assert refused(hub, hub.url) == (404, "unknown_artifact")


def test_a_share_that_is_away_is_no_missing_adapter(hub: Hub) -> None:
    url = hub.url
    hub.root.rename(hub.root.with_name("unmounted"))
    assert refused(hub, url) == (502, "store_unreachable")


def test_a_token_for_a_file_that_is_no_artifact_opens_nothing(hub: Hub) -> None:
    (hub.root / "adapters" / "kitchen-1" / "b" / "h" / "t").mkdir(parents=True)
    stray = "adapters/kitchen-1/b/h/t/adapter.zip"
    (hub.root / stray).write_bytes(b"geheim")
    assert refused(hub, hub.url_of(stray)) == (404, "unknown_artifact")
    known = hub.key.replace("adapter.zip", "artifact.json")
    assert refused(hub, hub.url_of(known)) == (404, "unknown_artifact")


def test_a_token_of_another_node_opens_nothing(hub: Hub) -> None:
    key = hub.key
    with hub.machine.database.transaction() as connection:  # as if the object had become another node's
        connection.execute("UPDATE deliveries SET node_id = 'hall'")
    assert refused(hub, hub.url_of(key)) == (404, "unknown_artifact")


def test_where_adapters_lie_in_a_bucket_there_are_none_here(hub: Hub) -> None:
    url = hub.url
    hub.parts.artifacts = S3Artifacts("b", S3Endpoint())
    assert refused(hub, url) == (404, "unknown_artifact")


def test_where_keys_are_in_use_the_url_alone_lets_in(make_services: MakeServices) -> None:
    services = make_services(security=SecuritySettings(loopback_only=False))
    KeyStore(services.database).create("hub", {APP})
    hub = services.hub
    work = write_version_files(services.settings.storage.state_dir / "work" / "1")
    version = services.versions.publish("kitchen", work, key="1" * 64, job_id=None, base_id="base")
    job = services.jobs.create({}, adapter="kitchen", trace_id="t", queue_limit=1)
    with services.database.transaction() as connection:
        queue(
            connection,
            job_id=job.id,
            node_id="kitchen-1",
            base_model_id="small",
            dataset_hash="0" * 64,
            adapter=version.adapter,
            version_key=version.key,
            at=datetime.now(UTC),
        )
    hub.deliverer._tokenizer_files = write_tokenizer  # its base never stops loading
    assert hub.deliverer.deliver_due() == 1
    found = hub.deliveries.get(job.id)
    assert found is not None
    assert found.object_key is not None
    assert found.expires_at is not None
    url = hub.artifacts.url(found.object_key, node_id="kitchen-1", expires_at=found.expires_at)
    with client_of(services, peer="192.0.2.7") as client:
        answer = client.get(url, headers={"Range": "bytes=0-3"})
        assert (answer.status_code, answer.content) == (206, b"PK\x03\x04")
        assert client.head(url).headers["etag"] == f'"{found.sha256}"'
        assert client.get(url.replace("adapter.zip", "manifest.json")).status_code == 401
        assert client.get(url.replace("/artifacts/", "/artifacts/x")).status_code == 403
