"""The kind `s3` against a real S3 API server, and against one that misbehaves."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from adapter_service.connectors import ranges, s3_object
from adapter_service.connectors.base import UNKNOWN_FORMAT, Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import EmptySourceError, SettingsError, SourceFormatError, SourceUnreachableError
from tests.connectors.conftest import open_kind
from tests.connectors.s3_bucket import KEYS, Bucket
from tests.connectors.server import FileServer

LINES = [f"line {i} of the object" for i in range(200)]
CONTENT = "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode()

OpenFaulty = Callable[..., Connector]


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MIN_RANGE_BYTES", 1000)


@pytest.fixture
def open_faulty(server: FileServer) -> OpenFaulty:
    """`/corpus/a.jsonl` of a plain file server as an object: all that GetObject needs, with its faults."""

    def open_it(**options: Any) -> Connector:
        server.put("/corpus/a.jsonl", CONTENT)
        where = {"bucket": "corpus", "key": "a.jsonl", "endpoint_url": server.url, "backoff_seconds": 0}
        return open_kind("s3", **{**where, **KEYS, **options})

    return open_it


def texts(connector: Connector) -> list[str]:
    return [sample.completion for _, sample in connector.stream()]


def test_an_object_is_read_in_ranges_of_one_state_of_it(server: FileServer, open_faulty: OpenFaulty) -> None:
    assert texts(open_faulty()) == LINES
    assert [r["range"] for r in server.requests[:2]] == ["bytes=0-999", "bytes=1000-1999"]
    assert [r.get("if-match") for r in server.requests[:2]] == [None, '"v1"']


def test_a_stream_that_is_left_has_not_read_the_rest(server: FileServer, open_faulty: OpenFaulty) -> None:
    list(itertools.islice(open_faulty().stream(), 3))
    assert len(server.requests) == 1


def test_objects_below_a_prefix_come_in_the_order_of_their_keys(bucket: Bucket) -> None:
    bucket.put("texts/b.txt", b"third\n")
    bucket.put("texts/a.jsonl", b'{"text": "first"}\n')
    bucket.put("texts/a.jsonl.zst", zstandard.compress(b'{"text": "second"}\n'))
    bucket.put("texts/c/d.csv.gz", gzip.compress(b"text\nfourth\n"))
    bucket.put("other/z.txt", b"elsewhere\n")
    assert texts(open_kind("s3", prefix="texts/", **bucket.options)) == ["first", "second", "third", "fourth"]


def test_a_listing_of_several_pages_is_resumed_behind_the_key_reached(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_service.connectors import s3

    monkeypatch.setattr(s3, "PAGE_KEYS", 2)
    for i in range(5):
        bucket.put(f"texts/{i}.txt", f"first of {i}\nsecond of {i}\n".encode())
    connector = open_kind("s3", prefix="texts/", **bucket.options)
    pairs = list(connector.stream())
    assert [sample.completion for _, sample in pairs] == [f"{w} of {i}" for i in range(5) for w in ("first", "second")]
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=json.loads(json.dumps(cursor)))) == pairs[i + 1 :]


def test_objects_of_other_formats_are_counted_and_are_not_bad(bucket: Bucket) -> None:
    bucket.put("texts/", b"")
    for i in range(30):
        bucket.put(f"texts/{i:02}.png", b"\x89PNG")
    bucket.put("texts/a.txt", b"one\ntwo\n")
    tally = Tally("corpus", max_skipped_fraction=0)
    list(tallied(open_kind("s3", prefix="texts/", **bucket.options), tally))
    assert (tally.used, tally.bad, tally.counts()["reasons"]) == (2, 0, {UNKNOWN_FORMAT: 30})


def test_an_object_that_changed_is_not_read_on(bucket: Bucket) -> None:
    key = bucket.put("a.jsonl", CONTENT)
    connector = open_kind("s3", key=key, **bucket.options)
    stream = connector.stream()
    cursor, _ = next(stream)
    bucket.put(key, CONTENT.replace(b"line", b"LINE"))
    with pytest.raises(SourceFormatError, match=r"/a.jsonl has changed since the place in it was noted"):
        list(stream)
    with pytest.raises(SourceFormatError, match="has changed"):
        next(connector.stream(after=cursor))


def test_a_change_is_noticed_where_the_server_knows_no_preconditions(
    server: FileServer, open_faulty: OpenFaulty
) -> None:
    stream = open_faulty().stream()
    next(stream)
    server.faults.etag = '"v2"'
    with pytest.raises(SourceFormatError, match="has changed since"):
        list(stream)


def test_a_check_names_the_object_and_its_first_sample(bucket: Bucket) -> None:
    bucket.put("texts/a.jsonl", CONTENT)
    found = open_kind("s3", key="texts/a.jsonl", **bucket.options).check()
    assert f"s3://{bucket.name}/texts/a.jsonl, {len(CONTENT)} bytes, jsonl" in found
    assert "first texts/a.jsonl (jsonl)" in open_kind("s3", prefix="texts", **bucket.options).check()


def test_an_empty_object_has_no_records(bucket: Bucket) -> None:
    bucket.put("a.jsonl", b"")
    empty = open_kind("s3", key="a.jsonl", **bucket.options)
    assert texts(empty) == []
    with pytest.raises(EmptySourceError, match="has no records"):
        empty.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket": "no-such-bucket", "key": "a.jsonl"}, "NoSuchBucket; there is no such bucket; check `bucket`"),
        ({"bucket": "no-such-bucket", "prefix": "a"}, "NoSuchBucket"),
        ({"key": "gone.jsonl"}, r"gone.jsonl: .* answered 404 NoSuchKey; there is no such object; check `key`"),
        ({"prefix": "nothing/"}, "nothing/: there is nothing; check `prefix`"),
        ({"prefix": "pictures/"}, "there is 'pictures/b.png' and others of no known format"),
        ({"bucket": "not a bucket", "key": "a.jsonl"}, "check `bucket`"),
    ],
)
def test_what_is_not_there_is_told(bucket: Bucket, options: dict[str, str], message: str) -> None:
    bucket.put("pictures/a.png", b"\x89PNG")
    bucket.put("pictures/b.png", b"\x89PNG")
    connector = open_kind("s3", **{**bucket.options, **options})
    with pytest.raises(SourceUnreachableError, match=message):
        list(connector.stream())
    with pytest.raises(SourceUnreachableError, match=message):
        connector.check()


def test_a_prefix_that_has_ended_is_resumed_at_its_end(bucket: Bucket) -> None:
    bucket.put("texts/a.txt", b"only\n")
    connector = open_kind("s3", prefix="texts/", **bucket.options)
    [(cursor, _)] = connector.stream()
    assert list(connector.stream(after=cursor)) == []


def test_a_refusal_says_which_right_is_missing(open_faulty: OpenFaulty) -> None:
    with pytest.raises(SourceUnreachableError, match=r"answered 403; check that these credentials may .*s3:GetObject"):
        texts(open_faulty(bucket="forbidden", key="a.jsonl"))


def test_nobody_at_the_endpoint_is_told_with_the_endpoint(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    connector = open_kind("s3", bucket="corpus", key="a.jsonl", endpoint_url=url, retry_attempts=0, **KEYS)
    with pytest.raises(SourceUnreachableError, match=rf'cannot be read: .*"{url}/corpus/a.jsonl"; check .endpoint_url'):
        texts(connector)


def test_missing_credentials_are_told_with_the_variables(
    server: FileServer, open_faulty: OpenFaulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = {"access_key_id": "", "secret_access_key": ""}
    with pytest.raises(SourceUnreachableError, match=r"AWS_ACCESS_KEY_ID and .*`anonymous: true`"):
        texts(open_faulty(**nobody))
    assert texts(open_faulty(anonymous=True, **nobody)) == LINES
    assert "authorization" not in server.requests[-1]


def test_dropped_connections_are_taken_up_at_the_byte_reached(server: FileServer, open_faulty: OpenFaulty) -> None:
    server.faults.drops = 3
    assert texts(open_faulty(retry_attempts=1)) == LINES


def test_a_busy_endpoint_is_asked_again_after_growing_pauses(
    server: FileServer, open_faulty: OpenFaulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", slept.append)
    connector = open_faulty(retry_attempts=2)
    server.faults.busy = 2
    assert texts(connector) == LINES
    assert len(slept) == 2
    server.faults.busy = 9
    with pytest.raises(SourceUnreachableError, match=r"a.jsonl: http://127.* answered 503 \(3 attempts\)"):
        texts(connector)


def test_a_server_that_never_gives_anything_is_given_up(server: FileServer, open_faulty: OpenFaulty) -> None:
    connector = open_faulty(retry_attempts=2)
    server.faults.empty_answers = True
    with pytest.raises(SourceUnreachableError, match=r"answered with nothing \(3 attempts\)"):
        texts(connector)


def test_a_server_that_trickles_is_given_up(server: FileServer, open_faulty: OpenFaulty) -> None:
    server.faults.trickle_seconds = 0.01
    with pytest.raises(SourceUnreachableError, match=r"bytes came within"):
        texts(open_faulty(timeout_seconds=0.05, retry_attempts=0))


def test_an_endpoint_without_ranges_is_refused(server: FileServer, open_faulty: OpenFaulty) -> None:
    server.faults.ranges = False
    with pytest.raises(SourceFormatError, match=r"s3://corpus/a.jsonl.*Content-Range"):
        texts(open_faulty())


def test_pauses_between_attempts_grow(server: FileServer) -> None:
    from adapter_service.connectors.s3 import S3Spec, _client

    slept: list[float] = []
    server.put("/corpus/a.jsonl", CONTENT)
    server.faults.empty_answers = True
    spec = S3Spec(bucket="corpus", key="a.jsonl", endpoint_url=server.url, **KEYS)
    options = s3_object.S3Options(attempts=4, backoff_seconds=10, sleep=slept.append)
    client = _client(spec)
    with pytest.raises(SourceUnreachableError):
        list(s3_object.S3Object(client, "corpus", "a.jsonl", options).blocks(0))
    client.close()
    assert slept == [10, 20, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one object as `key`, or many .* as `prefix`"),
        ({"key": "a", "prefix": "b"}, "give one object"),
        ({"key": "a", "access_key_id": "x"}, "go together; give both or neither"),
        ({"key": "a", "anonymous": True, **KEYS}, "`anonymous: true` uses no credentials"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_kind("s3", bucket="corpus", **options)


def test_an_endpoint_that_is_no_address_is_told() -> None:
    connector = open_kind("s3", bucket="corpus", key="a.txt", endpoint_url="minio:9000", **KEYS)
    with pytest.raises(SourceUnreachableError, match=r"minio:9000; check `endpoint_url`"):
        texts(connector)
