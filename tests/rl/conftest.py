"""Real places to send to, each on this machine: a folder, an S3 server, an HTTP server."""

from __future__ import annotations

import hashlib
import io
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from rl.destination import Destination, Place
from rl.episodes import Episode, row_of
from rl.rewards import RewardSettings
from rl.shards import ShardWriter
from rl.to_folder import FolderDestination
from rl.to_http import HttpDestination
from rl.to_s3 import S3Destination
from tests.rl.faulty_proxy import FaultyProxy
from tests.rl.put_server import PutServer

# The least that S3 takes for a part that is not the last.
PART_BYTES = 5 << 20
QUICK = (2.0, 1.0)


def episode(**values: Any) -> Episode:
    given = {"prompt": "Say hello", "output": "Hello there", "env_name": "test", "run_id": "run-1", "source": "test"}
    return Episode(**{**given, **values})


def shard_in(folder: Path, *, run_id: str = "run-1", rows: int = 3, filling: str = "") -> Path:
    """A sealed shard of `rows` episodes."""
    writer = ShardWriter(folder, run_id=run_id, max_bytes=1 << 30)
    for number in range(rows):
        writer.append(row_of(episode(run_id=run_id, output=f"Hello {number}{filling}"), number, RewardSettings()))
    path = writer.seal()
    assert path is not None
    return path


def large_shard_in(folder: Path, parts: int = 4) -> Path:
    """A sealed shard that takes so many parts."""
    writer = ShardWriter(folder, run_id="run-1", max_bytes=1 << 30)
    row = {**row_of(episode(), 0, RewardSettings()), "filling": "x" * (PART_BYTES // 2 - 4096)}
    for number in range(parts * 2):
        writer.append({**row, "episode_index": number})
    path = writer.seal()
    assert path is not None
    assert path.stat().st_size > PART_BYTES * (parts - 1)
    return path


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """An S3 server: that of S3_ENDPOINT_URL, or moto's."""
    if given := os.environ.get("S3_ENDPOINT_URL"):
        yield given
        return
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, _strictly(DomainDispatcherApplication(create_backend_app)), threaded=True)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _strictly(app: Any) -> Any:
    """moto takes half a request for a whole one, and believes checksums; S3 does neither."""

    def checked(environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        checksum = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        matches = checksum is None or b64encode(hashlib.sha256(body).digest()).decode() == checksum
        if len(body) < length or "HTTP_AUTHORIZATION" not in environ or not matches:
            start_response("400 Bad Request", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [b"<Error><Code>IncompleteBody</Code></Error>"]
        return app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    return checked


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_url: str, s3_client: Any) -> str:
    name = f"episodes-{uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_client(s3_url: str, _credentials: None) -> Any:
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=s3_url)


@pytest.fixture
def put_server() -> Iterator[PutServer]:
    server = PutServer()
    httpd = server.start()
    yield server
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str], FaultyProxy]]:
    """A proxy before a server's address."""
    proxies = []

    def make(url: str) -> FaultyProxy:
        parts = urlsplit(url)
        proxy = FaultyProxy((parts.hostname or "", parts.port or 80))
        proxy.start()
        proxies.append(proxy)
        return proxy

    yield make
    for proxy in proxies:
        proxy.close()


@dataclass(frozen=True)
class There:
    """One kind of storage: where to send, and what is there by name."""

    destination: Destination
    files: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], object]


@pytest.fixture(params=["folder", "s3", "http"])
def there(request: pytest.FixtureRequest) -> There:
    found: There = request.getfixturevalue(f"in_{request.param}")
    return found


@pytest.fixture
def in_folder(tmp_path: Path) -> There:
    root = tmp_path / "nas"
    root.mkdir()

    def put(name: str, content: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return There(
        FolderDestination(root, Place("ep/")),
        lambda: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()},
        put,
    )


@pytest.fixture
def in_s3(s3_url: str, bucket: str, s3_client: Any) -> There:
    def files() -> dict[str, bytes]:
        listed = s3_client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {o["Key"]: s3_client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in listed}

    return There(
        S3Destination(bucket, Place("ep/"), endpoint_url=s3_url, part_bytes=PART_BYTES),
        files,
        lambda name, content: s3_client.put_object(Bucket=bucket, Key=name, Body=content),
    )


@pytest.fixture
def in_http(put_server: PutServer) -> There:
    return There(
        HttpDestination(f"{put_server.url}/ep/"),
        lambda: {name.lstrip("/"): content for name, content in put_server.files.items()},
        lambda name, content: put_server.files.__setitem__(f"/{name}", content),
    )
