"""An `adapter.zip` as the service makes it, of weights that mean nothing."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zipfile import ZIP_STORED, ZipFile

from adapter_service.delivery.manifest import PackedManifest
from adapter_service.node.notice import ReadyNotice
from adapter_service.publishing.manifest import StoredFile

NOW = datetime(2030, 1, 7, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Zip:
    content: bytes
    dataset_hash: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def make_zip(seed: int = 1, *, node_id: str = "kitchen", size_bytes: int = 3000, more: Mapping[str, bytes] = {}) -> Zip:
    """Different for each `seed`; `more` are files that the manifest does not know."""
    files = {
        "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2}).encode(),
        "adapter_model.safetensors": random.Random(seed).randbytes(size_bytes),
    }
    manifest = PackedManifest(
        node_id=node_id,
        base_model_id="small",
        dataset_hash=f"{seed:064x}",
        created_at=NOW,
        files={
            name: StoredFile(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        },
    )
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_STORED) as archive:
        for name, content in {**files, "manifest.json": manifest.to_bytes(), **more}.items():
            archive.writestr(name, content)
    return Zip(packed.getvalue(), manifest.dataset_hash)


def notice_of(made: Zip, url: str, *, number: int = 1, minutes: float = 0, hours: float = 48) -> ReadyNotice:
    """The notice that it is ready, so many minutes after noon, for so many hours."""
    created_at = NOW + timedelta(minutes=minutes)
    return ReadyNotice(
        event="adapter_ready",
        event_id=f"event-{number}",
        job_id=f"job_{number}",
        node_id="kitchen",
        base_model_id="small",
        dataset_hash=made.dataset_hash,
        adapter_url=url,
        sha256=made.sha256,
        size_bytes=len(made.content),
        created_at=created_at,
        expires_at=created_at + timedelta(hours=hours),
    )
