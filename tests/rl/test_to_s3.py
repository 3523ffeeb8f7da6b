"""What S3 alone can get wrong: uploads in parts that others began, names that are taken meanwhile, endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rl.destination import Piece
from rl.errors import DifferentError
from rl.shards import read_manifest
from rl.upload_helper import destination_of
from rl.uploading import Uploader
from tests.rl.conftest import There, large_shard_in, shard_in


def test_parts_that_somebody_else_left_under_the_key_are_not_taken_for_ours(
    in_s3: There, bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    shard = large_shard_in(tmp_path / "runs")
    theirs = {"Bucket": bucket, "Key": f"ep/{shard.name}"}
    begun = s3_client.create_multipart_upload(**theirs, Metadata={"sha256": "theirs"})
    s3_client.upload_part(**theirs, UploadId=begun["UploadId"], PartNumber=1, Body=b"theirs")
    assert Uploader(shard.parent, in_s3.destination).upload().sent == [shard.name]
    assert s3_client.head_object(**theirs)["Metadata"]["sha256"] == read_manifest(shard).sha256
    (left,) = s3_client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert left["UploadId"] == begun["UploadId"]


def test_parts_whose_name_was_taken_meanwhile_are_not_left_there(
    in_s3: There, bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    shard = large_shard_in(tmp_path / "runs", parts=2)
    manifest = read_manifest(shard)
    piece = Piece(shard, "ep/taken.jsonl", manifest.bytes, manifest.sha256, "application/x-ndjson")
    with pytest.raises(DifferentError):
        in_s3.destination.send(piece, _Meanwhile(lambda: in_s3.put(piece.name, b"theirs")))
    assert in_s3.files() == {piece.name: b"theirs"}
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)


class _Meanwhile:
    """Notes that let something happen between the look at the name and the parts."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def read(self) -> Mapping[str, str]:
        return {}

    def write(self, **notes: str) -> None:
        self._happens()


def test_an_endpoint_that_is_no_address_is_said(tmp_path: Path) -> None:
    shard = shard_in(tmp_path / "runs")
    destination = destination_of("s3://bucket/ep/", endpoint_url="localhost:9000", environ={})
    report = Uploader(shard.parent, destination).upload()
    assert "'localhost:9000' is no address; http://host:port or https://host is wanted" in report.failed[shard.name]


def test_an_endpoint_that_is_set_to_nothing_is_none(
    in_s3: There, bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_url)  # where botocore looks when it is given none
    shard = shard_in(tmp_path / "runs")
    assert Uploader(shard.parent, destination_of(f"s3://{bucket}/ep/")).upload().sent == [shard.name]
