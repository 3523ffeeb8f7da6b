"""A machine with judged versions, jobs that asked for them, and a clock of its own; weights are a few bytes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adapter_service.adapters import Version, VersionStore
from adapter_service.database import Database
from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.deliverer import Deliverer
from adapter_service.delivery.deliveries import Deliveries, Delivery, queue
from adapter_service.delivery.folder_artifacts import FolderArtifacts
from adapter_service.delivery.outbox import Notice, Outbox
from adapter_service.delivery.signed_urls import UrlSigner
from adapter_service.settings import ArtifactSettings

START = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
HASH = "ab" * 32
NODE, BASE = "kitchen-1", "jarvis-small"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


def write_tokenizer(folder: Path) -> Iterable[Path]:
    """As transformers does: a few JSON files."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(f'{{"name": "{name}", "vocabulary": {list(range(500))}}}\n')
        yield path


def write_version_files(folder: Path, weights: bytes = b"weights" * 100, base_name: str = "package:tiny") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base_name}", "r": 4}}\n')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# kitchen\n\nA LoRA adapter for `package:tiny`.\n")
    (folder / "training_metadata.json").write_text('{"epochs": 3}\n')
    (folder / "resolved_config.yaml").write_text("storage:\n  state_dir: /home/someone/state\n")
    return folder


class Machine:
    """One machine's state folder; opened again after a crash it goes on with what it has."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.clock = clock
        self.database = Database(folder / "service.db")
        self.versions = VersionStore(self.database, folder / "adapters", clock)
        self.deliveries = Deliveries(self.database, clock)
        self.outbox = Outbox(self.database, clock)

    def train(self, name: str = "kitchen", **files: Any) -> Version:
        """A version that passed its gate."""
        number = len(self.versions.list()) + 1
        work = write_version_files(self.folder / "work" / str(number), **files)
        return self.versions.publish(name, work, key=f"{number:064x}", job_id=None, base_id="base")

    def add_job(self, job_id: str, *, callback: bool = False) -> None:
        request = '{"callback": {"url": "https://hub.example/done"}}' if callback else "{}"
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO jobs (id, adapter, status, attempt, request, trace_id, cancel_requested, step, progress, "
                "created_at) VALUES (?, 'kitchen', 'succeeded', 1, ?, 't', 0, 0, '{}', ?)",
                (job_id, request, self.clock().isoformat()),
            )

    def queue(self, job_id: str, version: Version, **other: Any) -> Delivery:
        values = {"node_id": NODE, "base_model_id": BASE, "dataset_hash": HASH, **other}
        with self.database.transaction() as connection:
            queue(
                connection,
                job_id=job_id,
                adapter=version.adapter,
                version_key=version.key,
                at=self.clock(),
                **values,
            )
        return self.delivery(job_id)

    def delivery(self, job_id: str = "job_1") -> Delivery:
        found = self.deliveries.get(job_id)
        assert found is not None
        return found

    def notices(self) -> list[tuple[str, str]]:
        return [_of(notice) for notice in self.outbox.list()]

    def kept(self) -> list[str]:
        """What lies packed on this machine's disk."""
        return sorted(path.name for path in (self.folder / "artifacts").glob("*"))

    def deliverer(self, artifacts: ArtifactStore, **settings: Any) -> Deliverer:
        return Deliverer(
            self.deliveries,
            self.versions,
            artifacts,
            settings=ArtifactSettings(**settings),
            state_dir=self.folder,
            tokenizer_files=write_tokenizer,
            now=self.clock,
        )


def _of(notice: Notice) -> tuple[str, str]:
    return (notice.kind.value, notice.job_id)


def folder_artifacts(root: Path, clock: Clock, *, public_url: str = "http://127.0.0.1:8100") -> FolderArtifacts:
    return FolderArtifacts(
        root, prefix="adapters", public_url=public_url, signer=UrlSigner(b"k" * 32, clock), now=clock
    )


def objects_in(root: Path) -> list[str]:
    """Every file below a folder, by its path there."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
