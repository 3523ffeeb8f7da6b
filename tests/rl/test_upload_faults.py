"""A network that drops, delays, resets, cuts off and refuses, between the uploader and real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rl.destination import Place
from rl.shards import manifest_path
from rl.to_folder import FolderDestination
from rl.to_http import HttpDestination
from rl.to_s3 import S3Destination
from rl.uploading import Report, Uploader
from tests.conftest import ROOT
from tests.rl.conftest import PART_BYTES, QUICK, There, large_shard_in, shard_in
from tests.rl.faulty_proxy import Fault, FaultyProxy
from tests.rl.put_server import PutServer

ProxyTo = Callable[[str], FaultyProxy]

FAULTS = [
    Fault("reset", b"PUT", after=200),
    Fault("stall", b"PUT", after=200),
    Fault("lost", b"PUT"),
    Fault("truncated", b"PUT", after=9),
    Fault("truncated", b"HEAD", after=20),
    Fault("busy", b"PUT"),
    Fault("busy", b"HEAD"),
    Fault("delay", b"PUT"),
    Fault("lost", b"HEAD"),
]


def upload(folder: Path, destination: Any) -> Report:
    return Uploader(folder, destination, wait=lambda _: False).upload()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.method.decode()}")
def test_a_shard_reaches_s3_through_a_faulty_network(
    in_s3: There, s3_url: str, bucket: str, proxy_to: ProxyTo, tmp_path: Path, fault: Fault
) -> None:
    shard, proxy = shard_in(tmp_path / "runs", filling="y" * 4096), proxy_to(s3_url)
    proxy.faults.append(fault)
    destination = S3Destination(bucket, Place("ep/"), endpoint_url=proxy.url, attempts=1, timeout_seconds=QUICK)
    report = upload(shard.parent, destination)
    assert report.failed == {}
    assert in_s3.files()[f"ep/{shard.name}"] == shard.read_bytes()
    assert manifest_path(shard).name in "".join(in_s3.files())
    assert not proxy.faults


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.method.decode()}")
def test_a_shard_reaches_an_http_server_through_a_faulty_network(
    put_server: PutServer, proxy_to: ProxyTo, tmp_path: Path, fault: Fault, resumable: bool
) -> None:
    put_server.resumable = resumable
    shard, proxy = shard_in(tmp_path / "runs", filling="y" * 4096), proxy_to(put_server.url)
    proxy.faults.append(fault)
    report = upload(shard.parent, HttpDestination(f"{proxy.url}/ep/", timeout_seconds=QUICK))
    assert report.failed == {}
    assert put_server.files[f"/ep/{shard.name}"] == shard.read_bytes()
    assert not proxy.faults


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_a_large_shard_whose_answers_get_lost_arrives_once(
    in_s3: There, s3_url: str, bucket: str, proxy_to: ProxyTo, tmp_path: Path, method: bytes
) -> None:
    shard, proxy = large_shard_in(tmp_path / "runs"), proxy_to(s3_url)
    proxy.faults.append(Fault("lost", method, skip=1))  # of the second part, and of the completion
    destination = S3Destination(
        bucket, Place("ep/"), endpoint_url=proxy.url, attempts=1, part_bytes=PART_BYTES, timeout_seconds=(2.0, 20.0)
    )
    report = upload(shard.parent, destination)
    assert (report.failed, proxy.faults) == ({}, type(proxy.faults)())
    assert in_s3.files()[f"ep/{shard.name}"] == shard.read_bytes()
    numbered = [line for line in proxy.requests if "partNumber=" in line]
    assert len(numbered) == len(set(numbered)) == 4


def test_a_retry_that_finds_its_own_work_is_done(
    in_s3: There, s3_url: str, bucket: str, proxy_to: ProxyTo, tmp_path: Path
) -> None:
    """boto3 tries again by itself; the second try is refused, for the first one has arrived."""
    shard, proxy = shard_in(tmp_path / "runs"), proxy_to(s3_url)
    proxy.faults.append(Fault("lost", b"PUT"))
    destination = S3Destination(bucket, Place("ep/"), endpoint_url=proxy.url, attempts=3)
    report = Uploader(shard.parent, destination, attempts=1).upload()
    assert (report.already_there, report.failed) == ([shard.name], {})
    assert in_s3.files()[f"ep/{shard.name}"] == shard.read_bytes()


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "found on the server"])
def test_an_upload_to_s3_that_was_killed_goes_on_with_the_part_that_it_was_at(
    in_s3: There, s3_url: str, bucket: str, proxy_to: ProxyTo, s3_client: Any, tmp_path: Path, noted: bool
) -> None:
    shard, proxy = large_shard_in(tmp_path / "runs"), proxy_to(s3_url)
    proxy.faults.append(Fault("stall", b"PUT", after=1 << 20, skip=2))
    killed_when_it_stalls(shard.parent, f"s3://{bucket}/ep/", proxy, S3_ENDPOINT_URL=proxy.url)
    assert in_s3.files() == {}
    if not noted:
        (shard.parent / "uploads.json").unlink()
    destination = S3Destination(bucket, Place("ep/"), endpoint_url=proxy.url, part_bytes=8 << 20)
    assert upload(shard.parent, destination).sent == [shard.name]
    assert in_s3.files()[f"ep/{shard.name}"] == shard.read_bytes()
    parts = [line for line in proxy.requests if "partNumber=" in line]
    assert len(parts) == len(set(parts)) + 1  # only the one under way came twice
    assert "Uploads" not in s3_client.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("resumable", [True, False])
def test_an_upload_over_http_that_was_killed_is_gone_on_with(
    put_server: PutServer, proxy_to: ProxyTo, tmp_path: Path, resumable: bool
) -> None:
    put_server.resumable = resumable
    shard, proxy = large_shard_in(tmp_path / "runs", parts=2), proxy_to(put_server.url)
    size, cut = shard.stat().st_size, 4 << 20
    proxy.faults.append(Fault("stall", b"PUT", after=cut))
    killed_when_it_stalls(shard.parent, f"{proxy.url}/ep/", proxy)
    assert put_server.cut_off.wait(60)
    assert put_server.files == {}
    assert upload(shard.parent, HttpDestination(f"{proxy.url}/ep/")).sent == [shard.name]
    assert put_server.files[f"/ep/{shard.name}"] == shard.read_bytes()
    sent = put_server.received - manifest_path(shard).stat().st_size
    assert sent == size if resumable else sent > size + cut // 2


def test_a_copy_to_a_folder_that_was_killed_leaves_nothing_that_looks_whole(in_folder: There, tmp_path: Path) -> None:
    shard = large_shard_in(tmp_path / "runs", parts=2)
    program = (
        "import os, sys, signal, shutil; sys.path.insert(0, os.getcwd())\n"
        "import rl.to_folder\n"
        "def die(source, target, size):\n"
        "    target.write(source.read(size)); target.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.copyfileobj = die\n"
        "from rl.upload_helper import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "--folder", str(shard.parent), "--upload-path", f"file://{tmp_path}/nas/"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == -signal.SIGKILL
    (left,) = in_folder.files()
    assert left.startswith(".")
    assert upload(shard.parent, FolderDestination(tmp_path / "nas", Place())).sent == [shard.name]
    assert in_folder.files().keys() == {shard.name, manifest_path(shard).name}


def killed_when_it_stalls(folder: Path, upload_path: str, proxy: FaultyProxy, **environment: str) -> None:
    """`rl/upload_helper.py` as a process of its own, killed when the proxy takes no more of it."""
    command = [
        sys.executable,
        str(ROOT / "rl" / "upload_helper.py"),
        "--folder",
        str(folder),
        "--upload-path",
        upload_path,
    ]
    with subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE) as process:
        assert proxy.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
