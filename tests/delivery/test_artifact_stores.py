"""Stores of both kinds: nothing is overwritten, what is there already counts, and URLs open what they say."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.delivery.artifact_store import Artifact, ArtifactStore, metadata_of, object_keys
from adapter_service.delivery.deliveries import Delivery, DeliveryStatus
from adapter_service.delivery.s3_artifacts import S3Artifacts
from adapter_service.errors import BadLinkError, StoreError, StoreUnreachableError, UnknownArtifactError
from adapter_service.publishing.s3_endpoint import S3Endpoint, base64_of
from tests.connectors.s3_bucket import KEYS, Bucket, bucket_at, s3_endpoint
from tests.delivery.presigned_bucket import PresignedBucket
from tests.delivery.shipping import BASE, HASH, NODE, START, Clock, folder_artifacts, objects_in

DELIVERY = Delivery(
    job_id="job_1",
    node_id=NODE,
    base_model_id=BASE,
    dataset_hash=HASH,
    adapter="kitchen",
    version_key="0" * 64,
    status=DeliveryStatus.PENDING,
    object_key=None,
    size_bytes=None,
    sha256=None,
    attempts=0,
    first_attempt_at=None,
    next_attempt_at=START,
    published_at=None,
    expires_at=None,
    acknowledged_at=None,
    reason=None,
    created_at=START,
    changed_at=START,
)
KEY = f"adapters/{NODE}/{BASE}/{HASH}/20261129T120000Z/adapter.zip"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_endpoint() as url:
        yield url


@pytest.fixture
def bucket(s3_url: str) -> Iterator[Bucket]:
    with bucket_at(s3_url) as made:
        yield made


@pytest.fixture
def front(bucket: Bucket) -> Iterator[PresignedBucket]:
    with PresignedBucket(bucket.endpoint_url, *KEYS.values()) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "nas").mkdir()
    return tmp_path / "nas"


def s3_artifacts(bucket: Bucket, **options: Any) -> S3Artifacts:
    endpoint = S3Endpoint(bucket.endpoint_url, "us-east-1", *KEYS.values())
    store = S3Artifacts(bucket.name, endpoint, prefix="adapters", **options)
    store.__dict__["_client"] = _client(endpoint)
    return store


@cache  # boto3 takes most of a second to make one
def _client(endpoint: S3Endpoint) -> Any:
    return endpoint.client()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ArtifactStore:
    """An empty store of each kind: one contract holds them both."""
    if request.param == "folder":
        return folder_artifacts(request.getfixturevalue("root"), Clock())
    return s3_artifacts(request.getfixturevalue("bucket"))


Artifacts = Callable[..., Artifact]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifacts:
    def make(content: bytes = b"a zip of some kind", delivery: Delivery = DELIVERY) -> Artifact:
        path = tmp_path / f"{hashlib.sha256(content).hexdigest()[:8]}.zip"
        path.write_bytes(content)
        return Artifact(path, len(content), hashlib.sha256(content).hexdigest(), metadata_of(delivery))

    return make


def test_one_that_is_there_already_counts_and_another_is_not_overwritten(
    store: ArtifactStore, artifact: Artifacts
) -> None:
    assert store.put(KEY, artifact())
    assert store.put(KEY, artifact())
    assert not store.put(KEY, artifact(b"other bytes, of another length"))
    assert not store.put(KEY, artifact(b"a zip of some kinD"))
    assert store.put(KEY, artifact())


def test_what_is_deleted_is_gone_and_gone_already_is_as_good(store: ArtifactStore, artifact: Artifacts) -> None:
    store.delete(KEY)
    store.put(KEY, artifact())
    store.delete(KEY)
    store.delete(KEY)
    assert store.put(KEY, artifact(b"other bytes"))


def test_a_url_for_another_nodes_object_is_not_made(store: ArtifactStore) -> None:
    for node_id in ("hall", "kitchen", "kitchen-11", "adapters", "..", ""):
        with pytest.raises(StoreError, match=r"no object of node"):
            store.url(KEY, node_id=node_id, expires_at=datetime.now(UTC) + HOUR)


# The folder.


def test_a_folder_has_the_object_and_beside_it_what_is_known_of_it(root: Path, artifact: Artifacts) -> None:
    store, wanted = folder_artifacts(root, Clock()), artifact(delivery=replace(DELIVERY, node_id="küche"))
    store.put(KEY, wanted)
    known = KEY.replace("adapter.zip", "artifact.json")
    assert objects_in(root) == [KEY, known]
    assert (root / KEY).read_bytes() == b"a zip of some kind"
    assert json.loads((root / known).read_text()) == {
        "node-id": "küche",
        "base-model-id": BASE,
        "dataset-hash": HASH,
        "job-id": "job_1",
        "sha256": wanted.sha256,
        "size_bytes": 18,
    }
    store.delete(KEY)
    assert list(root.iterdir()) == []


def test_a_deletion_leaves_the_folders_of_others(root: Path, artifact: Artifacts) -> None:
    store = folder_artifacts(root, Clock())
    other = KEY.replace("120000Z", "120001Z")
    store.put(KEY, artifact())
    store.put(other, artifact())
    store.delete(KEY)
    assert objects_in(root) == [other, other.replace("adapter.zip", "artifact.json")]


def test_an_upload_that_was_cut_short_is_no_object_and_the_next_one_goes_over_it(
    root: Path, artifact: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_artifacts(root, Clock())
    with monkeypatch.context() as broken:
        broken.setattr(os, "link", partial(_fail, OSError(28, "No space left on device")))
        with pytest.raises(StoreUnreachableError, match="No space left on device; check that the share is mounted"):
            store.put(KEY, artifact())
    assert not (root / KEY).exists()
    assert store.put(KEY, artifact())
    assert len(objects_in(root)) == 2


def test_a_share_without_hard_links_takes_objects_and_overwrites_none(
    root: Path, artifact: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", partial(_fail, PermissionError(1, "Operation not permitted")))
    store = folder_artifacts(root, Clock())
    assert store.put(KEY, artifact())
    assert not store.put(KEY, artifact(b"other"))
    assert len(objects_in(root)) == 2


def _fail(error: Exception, *_: object) -> None:
    raise error


def test_a_file_that_came_meanwhile_is_not_overwritten(
    root: Path, artifact: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"from another machine")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert not folder_artifacts(root, Clock()).put(KEY, artifact())
    assert (root / KEY).read_bytes() == b"from another machine"


def test_a_share_that_is_not_mounted_is_no_folder_on_this_disk(root: Path, artifact: Artifacts) -> None:
    store = folder_artifacts(root, Clock())
    root.rmdir()
    for ask in (partial(store.put, KEY, artifact()), partial(store.delete, KEY), partial(store.file, KEY)):
        with pytest.raises(StoreUnreachableError, match="mount the share"):
            ask()
    assert not root.exists()


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "a\0b", ".."])
def test_no_key_leads_out_of_the_folder(root: Path, artifact: Artifacts, key: str) -> None:
    store = folder_artifacts(root, Clock())
    for ask in (partial(store.put, key, artifact()), partial(store.delete, key), partial(store.file, key)):
        with pytest.raises(StoreError, match="there can be no object"):
            ask()


def test_no_link_leads_out_of_the_folder(root: Path, tmp_path: Path, artifact: Artifacts) -> None:
    store = folder_artifacts(root, Clock())
    store.put(KEY, artifact())
    (tmp_path / "secret").write_text("geheim")
    (root / KEY).unlink()
    (root / KEY).symlink_to(tmp_path / "secret")
    with pytest.raises(UnknownArtifactError):
        store.file(KEY)
    store.delete(KEY)
    assert (tmp_path / "secret").read_text() == "geheim"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / KEY).parent.mkdir(parents=True)
    (elsewhere / KEY).write_bytes(b"geheim")
    (root / "adapters").symlink_to(elsewhere / "adapters")
    with pytest.raises(UnknownArtifactError):
        store.file(KEY)


def test_a_folders_url_opens_its_object_until_its_time(root: Path, artifact: Artifacts) -> None:
    clock = Clock()
    store = folder_artifacts(root, clock, public_url="https://hub.example:8443/base/")
    store.put(KEY, artifact())
    url = store.url(KEY, node_id=NODE, expires_at=START + HOUR)
    token = _token(url)
    assert url == f"https://hub.example:8443/base/api/v0/artifacts/{token}/adapter.zip"
    clock.forward(seconds=3599)
    grant = store.grant(token)
    assert (grant.object_key, grant.node_id) == (KEY, NODE)
    assert store.file(KEY)[0].read_bytes() == b"a zip of some kind"
    clock.forward(seconds=1)
    with pytest.raises(BadLinkError, match=r"was good until 2026-11-29T13:00:00\+00:00; ask for the job again"):
        store.grant(token)
    with pytest.raises(UnknownArtifactError, match="post the commands again"):
        store.url(KEY, node_id=NODE, expires_at=START + HOUR)


def _token(url: str) -> str:
    return urlsplit(url).path.split("/")[-2]


# The bucket.


def fetched(url: str) -> tuple[int, bytes]:
    try:
        with urlopen(url) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_bucket_has_the_object_with_its_hash_and_what_is_known_of_it(bucket: Bucket, artifact: Artifacts) -> None:
    wanted = artifact(delivery=replace(DELIVERY, node_id="küche 1", base_model_id="google/gemma-3"))
    s3_artifacts(bucket).put(KEY, wanted)
    found = bucket.client.head_object(Bucket=bucket.name, Key=KEY, ChecksumMode="ENABLED")
    assert found["ContentType"] == "application/zip"
    assert found["ChecksumSHA256"] == base64_of(wanted.sha256)
    assert found["Metadata"] == {
        "node-id": "k%C3%BCche%201",
        "base-model-id": "google/gemma-3",
        "dataset-hash": HASH,
        "job-id": "job_1",
    }


def test_an_object_without_a_checksum_is_compared_byte_for_byte(bucket: Bucket, artifact: Artifacts) -> None:
    bucket.put(KEY, b"a zip of some kind")
    store = s3_artifacts(bucket)
    assert store.put(KEY, artifact())
    assert not store.put(KEY, artifact(b"a zip of some kinD"))


def test_a_bucket_that_is_not_there_is_told_without_secrets(bucket: Bucket, artifact: Artifacts) -> None:
    store = S3Artifacts("no-such-bucket", S3Endpoint(bucket.endpoint_url, "us-east-1", *KEYS.values()))
    for ask in (partial(store.put, KEY, artifact()), partial(store.delete, KEY)):
        with pytest.raises(StoreUnreachableError, match=r"s3://no-such-bucket/.*no such bucket; make it") as error:
            ask()
        assert KEYS["secret_access_key"] not in str(error.value) + repr(store._endpoint)


def test_an_endpoint_that_does_not_answer_is_tried_later(artifact: Artifacts) -> None:
    store = S3Artifacts("b", S3Endpoint("http://127.0.0.1:9", "us-east-1", *KEYS.values()))
    with pytest.raises(StoreUnreachableError, match="cannot be reached"):
        store.put(KEY, artifact())


def test_a_presigned_url_is_for_the_public_host_and_opens_its_object(
    bucket: Bucket, front: PresignedBucket, artifact: Artifacts
) -> None:
    store = s3_artifacts(bucket, public_url=front.url)
    store.put(KEY, artifact())
    url = store.url(KEY, node_id=NODE, expires_at=datetime.now(UTC) + HOUR)
    assert url.startswith(f"{front.url}/{bucket.name}/{KEY}?")  # path style, and the host that nodes know
    for _ in range(2):  # reusable
        assert fetched(url) == (200, b"a zip of some kind")
    with urlopen(url) as answer:
        assert answer.headers["Content-Disposition"] == 'attachment; filename="adapter.zip"'
        assert answer.headers["Content-Type"] == "application/zip"


def test_a_name_that_had_to_be_quoted_can_be_fetched(
    bucket: Bucket, front: PresignedBucket, artifact: Artifacts
) -> None:
    delivery = replace(DELIVERY, node_id="küche 1/../2", base_model_id="google/gemma+3")
    key = next(object_keys("adapters", delivery, START))
    store = s3_artifacts(bucket, public_url=front.url)
    store.put(key, artifact())
    assert fetched(store.url(key, node_id=delivery.node_id, expires_at=datetime.now(UTC) + HOUR))[0] == 200


def test_what_was_signed_cannot_be_changed(bucket: Bucket, front: PresignedBucket, artifact: Artifacts) -> None:
    store, other = s3_artifacts(bucket, public_url=front.url), KEY.replace(NODE, "hall")
    for key in (KEY, other):
        store.put(key, artifact())
    url = store.url(KEY, node_id=NODE, expires_at=datetime.now(UTC) + HOUR)
    changes = {
        "another object": url.replace(KEY, other),
        "a longer time": url.replace("X-Amz-Expires=3", "X-Amz-Expires=9"),
        "another name to save it by": url.replace("adapter.zip%22", "evil.exe%22"),
        "another date": url.replace("X-Amz-Date=2", "X-Amz-Date=3"),
        "more that is asked": f"{url}&versionId=1",
        "another signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "no signature": url.partition("&X-Amz-Signature")[0],
        "another host": url.replace("127.0.0.1", "localhost"),
    }
    for change, changed in changes.items():
        assert changed != url
        assert fetched(changed)[0] == 403, change
    assert set(front.refusals) == {"SignatureDoesNotMatch"}
    assert fetched(url)[0] == 200


def test_a_presigned_url_ends_at_its_time(bucket: Bucket, front: PresignedBucket, artifact: Artifacts) -> None:
    store, ends_at = s3_artifacts(bucket, public_url=front.url), datetime.now(UTC) + HOUR
    store.put(KEY, artifact())
    url = store.url(KEY, node_id=NODE, expires_at=ends_at)
    front.now = lambda: ends_at - timedelta(seconds=5)
    assert fetched(url)[0] == 200
    front.now = lambda: ends_at
    assert fetched(url) == (403, b"AccessDenied")
    with pytest.raises(UnknownArtifactError, match="post the commands again"):
        store.url(KEY, node_id=NODE, expires_at=datetime.now(UTC))


def test_a_presigned_url_is_never_good_for_more_than_seven_days(bucket: Bucket, front: PresignedBucket) -> None:
    clock = Clock()
    store = s3_artifacts(bucket, public_url=front.url, now=clock)
    assert "X-Amz-Expires=604800&" in store.url(KEY, node_id=NODE, expires_at=START + timedelta(days=7))
    with pytest.raises(StoreError, match="604801 seconds was wanted; S3 signs 604800 at most"):
        store.url(KEY, node_id=NODE, expires_at=START + timedelta(days=7, seconds=1))


def test_no_signature_comes_to_the_log_however_much_is_logged(
    bucket: Bucket, artifact: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        store = s3_artifacts(bucket)
        store.put(KEY, artifact())
        url = store.url(KEY, node_id=NODE, expires_at=datetime.now(UTC) + HOUR)
    assert url.rpartition("=")[2] not in caplog.text
    assert KEYS["secret_access_key"] not in caplog.text


def test_without_a_public_address_urls_are_for_the_endpoint_itself(bucket: Bucket) -> None:
    url = s3_artifacts(bucket).url(KEY, node_id=NODE, expires_at=datetime.now(UTC) + HOUR)
    assert url.startswith(f"{bucket.endpoint_url}/{bucket.name}/{KEY}?")


@pytest.mark.parametrize(
    ("bucket_name", "host"),
    [("home", "home.s3.eu-central-1.amazonaws.com/"), ("my.home", "s3.eu-central-1.amazonaws.com/my.home/")],
)
def test_amazons_own_urls_name_the_buckets_region(bucket_name: str, host: str) -> None:
    store = S3Artifacts(bucket_name, S3Endpoint(None, "eu-central-1", *KEYS.values()))
    url = store.url(KEY, node_id=NODE, expires_at=datetime.now(UTC) + HOUR)
    assert url.startswith(f"https://{host}{KEY}?")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url


# Keys.

NAMES = st.text(min_size=1, max_size=200)


def test_a_key_has_node_base_hash_and_time_and_there_is_always_a_next() -> None:
    keys = object_keys("adapters", DELIVERY, START.replace(microsecond=9))
    assert [next(keys), next(keys)] == [KEY, KEY.replace("120000Z", "120001Z")]
    assert next(object_keys("", DELIVERY, START)) == KEY.removeprefix("adapters/")


@given(node=NAMES, base=NAMES)
def test_whatever_a_node_is_called_its_objects_are_in_a_folder_of_its_own(node: str, base: str) -> None:
    key = next(object_keys("a/b", replace(DELIVERY, node_id=node, base_model_id=base), START))
    parts = key.split("/")
    assert parts[:2] == ["a", "b"]
    assert len(parts) == 7
    assert all(part.isascii() and part not in {"", ".", ".."} and len(part) <= 120 for part in parts)
    assert not set(key) & set("\\\0+#?*")


@given(first=NAMES, second=NAMES)
def test_two_nodes_never_have_one_folder(first: str, second: str) -> None:
    keys = [next(object_keys("", replace(DELIVERY, node_id=node), START)) for node in (first, second)]
    assert (keys[0] == keys[1]) == (first == second)


def test_a_node_cannot_take_the_name_of_a_long_ones_folder() -> None:
    long = next(object_keys("", replace(DELIVERY, node_id="k" * 500), START)).split("/")[0]
    assert next(object_keys("", replace(DELIVERY, node_id=long), START)).split("/")[0] != long
    longer = next(object_keys("", replace(DELIVERY, node_id="k" * 501), START)).split("/")[0]
    assert longer != long
