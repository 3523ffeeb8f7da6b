"""A bucket on a real S3 API server: moto's on loopback, or the one at S3_ENDPOINT_URL (with AWS_… credentials)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import boto3

KEYS: dict[str, Any] = {"access_key_id": "test-key", "secret_access_key": "test-secret"}


@dataclass(frozen=True)
class Bucket:
    """`options` opens it as a source."""

    name: str
    endpoint_url: str
    client: Any
    credentials: dict[str, str]

    @property
    def options(self) -> dict[str, Any]:
        return {"bucket": self.name, "endpoint_url": self.endpoint_url, "backoff_seconds": 0, **self.credentials}

    def put(self, key: str, content: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return key


@contextmanager
def s3_endpoint() -> Iterator[str]:
    if url := os.environ.get("S3_ENDPOINT_URL"):
        yield url
        return
    # It takes a second to import, which other tests need not wait for.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def bucket_at(endpoint_url: str) -> Iterator[Bucket]:
    given = {} if "S3_ENDPOINT_URL" in os.environ else KEYS
    keys = {f"aws_{name}": value for name, value in given.items()}
    client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name="us-east-1", **keys)
    with closing(client):
        bucket = Bucket(f"corpus-{uuid4().hex[:12]}", endpoint_url, client, given)
        client.create_bucket(Bucket=bucket.name)
        yield bucket
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket.name, Key=item["Key"])
        client.delete_bucket(Bucket=bucket.name)
