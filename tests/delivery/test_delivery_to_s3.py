"""From a judged version to a node by way of a bucket: signed for the host that nodes know, and gone when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from adapter_service.delivery.artifact_store import Artifact
from adapter_service.delivery.deliveries import Delivery, DeliveryStatus
from adapter_service.delivery.s3_artifacts import S3Artifacts
from adapter_service.delivery.unpacking import unpack
from adapter_service.publishing.s3_endpoint import S3Endpoint
from tests.connectors.s3_bucket import KEYS, Bucket, bucket_at, s3_endpoint
from tests.delivery.presigned_bucket import PresignedBucket
from tests.delivery.shipping import Clock, Machine


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_endpoint() as url, bucket_at(url) as made:
        yield made


@pytest.fixture
def front(bucket: Bucket) -> Iterator[PresignedBucket]:
    with PresignedBucket(bucket.endpoint_url, *KEYS.values()) as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = datetime.now(UTC).replace(microsecond=0)  # boto3 signs by the real one
    return clock


@pytest.fixture
def machine(tmp_path: Path, clock: Clock) -> Iterator[Machine]:
    made = Machine(tmp_path / "state", clock)
    made.add_job("job_1")
    yield made
    made.database.close()


class Dying(S3Artifacts):
    """A bucket whose client dies with the object in it, before anybody knows."""

    def put(self, key: str, artifact: Artifact) -> bool:
        super().put(key, artifact)
        raise KeyboardInterrupt


def in_bucket(kind: type[S3Artifacts], bucket: Bucket, front: PresignedBucket, clock: Clock) -> S3Artifacts:
    endpoint = S3Endpoint(bucket.endpoint_url, "us-east-1", *KEYS.values())
    return kind(bucket.name, endpoint, prefix="home/adapters", public_url=front.url, now=clock)


def keys_in(bucket: Bucket) -> list[str]:
    found: list[dict[str, Any]] = bucket.client.list_objects_v2(Bucket=bucket.name).get("Contents", [])
    return [item["Key"] for item in found]


def url_of(store: S3Artifacts, delivery: Delivery) -> str:
    assert delivery.object_key is not None
    assert delivery.expires_at is not None
    return store.url(delivery.object_key, node_id=delivery.node_id, expires_at=delivery.expires_at)


def test_a_node_fetches_what_was_judged_and_then_it_is_deleted(
    machine: Machine, bucket: Bucket, front: PresignedBucket, clock: Clock, tmp_path: Path
) -> None:
    version = machine.train()
    store = in_bucket(S3Artifacts, bucket, front, clock)
    deliverer = machine.deliverer(store)
    machine.queue("job_1", version)
    assert deliverer.deliver_due() == 1
    found = machine.delivery()
    assert keys_in(bucket) == [found.object_key]
    assert (found.object_key or "").startswith("home/adapters/kitchen-1/jarvis-small/")
    url = url_of(store, found)
    assert url.startswith(front.url)
    with urlopen(url) as answer:
        (tmp_path / "adapter.zip").write_bytes(answer.read())
    unpack(tmp_path / "adapter.zip", tmp_path / "node")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "node" / weights).read_bytes() == (version.path / weights).read_bytes()
    machine.deliveries.acknowledge("job_1")
    assert deliverer.delete_due() == 1
    assert keys_in(bucket) == []
    with pytest.raises(HTTPError) as error, urlopen(url):
        pass
    assert error.value.code in {403, 404}  # S3 says 403 to who may not list the bucket
    assert front.refusals == []
    error.value.close()


def test_a_crash_between_the_upload_and_its_row_leaves_one_object_which_is_found_again(
    machine: Machine, bucket: Bucket, front: PresignedBucket, clock: Clock
) -> None:
    machine.queue("job_1", machine.train())
    with pytest.raises(KeyboardInterrupt):
        machine.deliverer(in_bucket(Dying, bucket, front, clock)).deliver_due()
    (there,) = keys_in(bucket)
    clock.forward(minutes=7)
    assert machine.deliverer(in_bucket(S3Artifacts, bucket, front, clock)).deliver_due() == 1
    assert machine.delivery().status is DeliveryStatus.PUBLISHED
    assert keys_in(bucket) == [there] == [machine.delivery().object_key]


def test_an_object_that_expired_is_deleted_and_published_again_under_another_name(
    machine: Machine, bucket: Bucket, front: PresignedBucket, clock: Clock
) -> None:
    version = machine.train()
    deliverer = machine.deliverer(in_bucket(S3Artifacts, bucket, front, clock), url_seconds=60)
    machine.queue("job_1", version)
    deliverer.deliver_due()
    first = machine.delivery()
    clock.forward(seconds=60)
    assert deliverer.delete_due() == 1
    assert keys_in(bucket) == []
    machine.queue("job_1", version)
    assert deliverer.deliver_due() == 1
    second = machine.delivery()
    assert (second.sha256, second.expires_at) == (first.sha256, clock() + timedelta(seconds=60))
    assert keys_in(bucket) == [second.object_key] != [first.object_key]


def test_a_bucket_that_is_not_there_yet_is_waited_for(
    machine: Machine, bucket: Bucket, front: PresignedBucket, clock: Clock
) -> None:
    store = S3Artifacts("later-on", S3Endpoint(bucket.endpoint_url, "us-east-1", *KEYS.values()), now=clock)
    deliverer = machine.deliverer(store)
    machine.queue("job_1", machine.train())
    assert deliverer.deliver_due() == 1
    assert "make it, or check `bucket`" in (machine.delivery().reason or "")
    assert KEYS["secret_access_key"] not in (machine.delivery().reason or "")
    bucket.client.create_bucket(Bucket="later-on")
    clock.forward(minutes=5)
    assert deliverer.deliver_due() == 1
    found = machine.delivery()
    assert found.status is DeliveryStatus.PUBLISHED
    bucket.client.delete_object(Bucket="later-on", Key=found.object_key)
    bucket.client.delete_bucket(Bucket="later-on")
