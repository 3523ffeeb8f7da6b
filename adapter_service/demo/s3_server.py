"""A bucket for the demonstration: at S3_ENDPOINT_URL, with the AWS_… credentials, or else on a server of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapter_service.errors import RunFailedError

BUCKET = "adapter-service-demo"
_OWN_KEY = "demo"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens, and with which keys; `shown` says whose it is."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    shown: str


@contextmanager
def bucket() -> Iterator[S3Server]:
    """A server that has `BUCKET`.

    Raises:
        RunFailedError: there is none, and none can be started.
    """
    with _server() as server:
        _make_bucket(server)
        yield server


@contextmanager
def _server() -> Iterator[S3Server]:
    if url := os.environ.get("S3_ENDPOINT_URL"):
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not key or not secret:
            raise RunFailedError(
                "S3_ENDPOINT_URL is set and AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not; set both, or unset the "
                "first to have a server started"
            )
        yield S3Server(url, key, secret, "your S3 server")
        return
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise RunFailedError(
            "there is no S3 server to publish to; install moto[server] (make setup does), set S3_ENDPOINT_URL, or "
            "publish to a folder with --store folder"
        ) from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # its lines have the signed URLs in them
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", _OWN_KEY, _OWN_KEY, "a local S3 server (moto)")
    finally:
        server.stop()


def _make_bucket(server: S3Server) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name="us-east-1",
    )
    try:
        client.create_bucket(Bucket=BUCKET)
    except client.exceptions.BucketAlreadyOwnedByYou:
        return
    except (BotoCoreError, ClientError) as error:
        raise RunFailedError(f"no bucket can be made at {server.endpoint_url}: {type(error).__name__}") from error
