"""A machine with versions for the tiny base, and stores of both kinds that are really there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from adapter_service.adapters import Version, VersionStore
from adapter_service.adapters.uploads import Uploads
from adapter_service.database import Database
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.s3_store import S3Store
from adapter_service.publishing.store import Store

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseOutline

BUCKET = "adapters"
KEYS = {"access_key_id": "test", "secret_access_key": "test"}


@pytest.fixture(scope="session")
def outline(tiny_base_folder: Path) -> BaseOutline:
    from adapter_service.model_utils import outline_base

    return outline_base(str(tiny_base_folder), bases_dir=tiny_base_folder)


def write_adapter(folder: Path, base: BaseOutline, seed: int = 1, r: int = 2) -> Path:
    """Random weights for `base`, as a training job leaves them."""
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.lora.folder import write_folder
    from adapter_service.lora.layer import install

    layers = install(base.model, keep=base.model.get_output_embeddings())
    folder.mkdir(parents=True)
    write_folder(Adapter.fresh(LoraConfig(r=r, alpha=4), layers, seed=seed), folder, base_name=base.name)
    (folder / "README.md").write_text(f"trained with seed {seed}\n")
    return folder


class Machine:
    """One machine's state folder."""

    def __init__(self, folder: Path, base: BaseOutline, *, stores: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.base = base
        self.database = Database(folder / "service.db")
        self.versions = VersionStore(self.database, folder / "adapters", stores=stores)
        self.uploads = Uploads(self.database)

    def train(self, seed: int, name: str = "hindi", *, base_id: str | None = None) -> Version:
        work = write_adapter(self.folder / "work" / f"{name}{seed}", self.base, seed)
        return self.versions.publish(
            name,
            work,
            key=f"{seed:064x}",
            job_id="job_1",
            base_id=base_id or self.base.identity,
            gate={"verdict": "passed", "reasons": ["लाभ 0.2"]},
        )


MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(tmp_path: Path, outline: BaseOutline) -> Iterator[MakeMachine]:
    made: list[Machine] = []

    def make(name: str = "here", **options: Any) -> Machine:
        made.append(Machine(tmp_path / name, replace(outline), **options))
        return made[-1]

    yield make
    for machine in made:
        machine.database.close()


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    return make_machine()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3(s3_endpoint: str) -> Iterator[Any]:
    """What the tests themselves look with."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - moto takes any
    )
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any) -> Iterator[Any]:
    """An empty bucket that keeps every version of an object, so that whatever is written twice is seen."""
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield s3
    for item in s3.list_object_versions(Bucket=BUCKET).get("Versions", []):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"], VersionId=item["VersionId"])
    s3.delete_bucket(Bucket=BUCKET)


@cache  # boto3 takes most of a second to make a client
def s3_store(endpoint: str) -> S3Store:
    return S3Store("cloud", BUCKET, prefix="team/", endpoint_url=endpoint, region="us-east-1", **KEYS)


def folder_store(root: Path, writer: str = "w1") -> FolderStore:
    root.mkdir(exist_ok=True)
    return FolderStore("nas", root, writer=writer)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind: one contract holds them both."""
    if request.param == "folder":
        return folder_store(tmp_path / "nas")
    request.getfixturevalue("bucket")
    return s3_store(request.getfixturevalue("s3_endpoint"))
