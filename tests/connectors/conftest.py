from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_service.connectors.base import Connector
from adapter_service.connectors.registry import open_source
from adapter_service.settings import SourceEntry
from tests.connectors.hub_server import HubServer
from tests.connectors.s3_bucket import Bucket, bucket_at, s3_endpoint
from tests.connectors.server import FileServer

Open = Callable[..., Connector]


@pytest.fixture
def server() -> Iterator[FileServer]:
    files = FileServer()
    httpd = files.start()
    yield files
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_endpoint() as url:
        yield url


@pytest.fixture
def bucket(s3_url: str) -> Iterator[Bucket]:
    with bucket_at(s3_url) as made:
        yield made


@pytest.fixture
def free_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub of this test alone, with an empty cache."""
    import datasets
    import huggingface_hub

    server = HubServer()
    httpd = server.start()
    # What both libraries took from HF_ENDPOINT and HF_HOME when they were imported.
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    yield server
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def open_local(tmp_path: Path) -> Open:
    """Write a file and open it: `open_local("a.jsonl", b"…", format="chat", shuffle_buffer=3)`."""

    def open_it(file: str, content: bytes, *, path: str = "", **options: Any) -> Connector:
        (tmp_path / file).write_bytes(content)
        return open_kind("local", folder=tmp_path, path=path or file, **options)

    return open_it


@pytest.fixture
def open_http(server: FileServer) -> Open:
    """Open an address of the loopback server, without waiting between attempts."""

    def open_it(path: str = "/a.jsonl", **options: Any) -> Connector:
        address = {} if "base_url" in options else {"url": server.url + path}
        return open_kind("http", **{"allow_private": True, "backoff_seconds": 0, **address, **options})

    return open_it


def open_kind(
    kind: str,
    *,
    folder: Path | None = None,
    seed: int = 0,
    shuffle_buffer: int = 0,
    only: tuple[str, ...] = (),
    **options: Any,
) -> Connector:
    entry = SourceEntry(name="corpus", kind=kind, options=options, folder=folder)
    return open_source(entry, languages=only, seed=seed, shuffle_buffer=shuffle_buffer)
