"""From a notice to the adapter in use: fetched, verified and switched to, whatever was taken or begun before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from adapter_service.adapters.artifact import MANIFEST
from adapter_service.delivery.manifest import parse_packed
from adapter_service.delivery.unpacking import Limits, unpack
from adapter_service.errors import AdapterFormatError, AdapterServiceError, UnknownArtifactError
from adapter_service.node.active import Active, NodeFolder
from adapter_service.node.downloading import download
from adapter_service.node.notice import ReadyNotice
from adapter_service.node.service import Service

Tell = Callable[..., None]
"""Says what happens: its name, and whatever there is to say of it."""

# Files in a zip may be deflated, weights hardly can.
_UNPACKED_TIMES = 4


class Outcome(StrEnum):
    ACTIVATED = "activated"
    DUPLICATE = "duplicate"
    """It is in use already."""
    OLDER = "older"
    """What is in use is newer."""
    EXPIRED = "expired"
    """It can be fetched no longer."""
    REFUSED = "refused"
    """What came is not what was announced."""


class Taker:
    """Takes the notices of one node, one after another."""

    def __init__(
        self,
        folder: NodeFolder,
        tell: Tell,
        *,
        service: Service | None = None,
        max_bytes: int = 1 << 29,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._tell = tell
        self._service = service
        self._max_bytes = max_bytes
        self._now = now

    def take(self, notice: ReadyNotice) -> Outcome:
        """What became of it, for good: the same again becomes a duplicate.

        Raises:
            StoreUnreachableError: it cannot be fetched now; try again.
            ServiceAnswerError: it needs another URL, and the service does not give it.
        """
        active = self._active()
        if active is not None and notice.event_id == active.event_id:
            return Outcome.DUPLICATE
        if active is not None and notice.created_at < active.created_at:
            return Outcome.OLDER
        try:
            self._have(notice)
        except UnknownArtifactError as error:
            self._tell("expired", event_id=notice.event_id, reason=str(error))
            return Outcome.EXPIRED
        except AdapterFormatError as error:
            self._tell("refused", event_id=notice.event_id, reason=str(error))
            return Outcome.REFUSED
        self._folder.activate(Active.of(notice))
        if active is not None and active.sha256 == notice.sha256:
            return Outcome.DUPLICATE
        self._tell("activated", event_id=notice.event_id, job_id=notice.job_id, dataset_hash=notice.dataset_hash)
        return Outcome.ACTIVATED

    def acknowledge(self) -> bool:
        """Tell the service that this node has what it uses, if that is not known yet; whether all is said."""
        active = self._active()
        if self._service is None or active is None or active.acknowledged:
            return True
        try:
            self._service.acknowledge(active.job_id)
        except AdapterServiceError as error:
            self._tell("not_acknowledged", job_id=active.job_id, reason=str(error))
            return False
        self._folder.activate(active.model_copy(update={"acknowledged": True}))
        self._tell("acknowledged", job_id=active.job_id)
        return True

    def _active(self) -> Active | None:
        try:
            active = self._folder.active()
        except AdapterFormatError as error:
            self._tell("damaged", reason=str(error))
            return None
        return active if active is not None and self._folder.files(active.sha256).is_dir() else None

    def _have(self, notice: ReadyNotice) -> None:
        """Its files are there, and are what was announced."""
        files, part = self._folder.files(notice.sha256), self._folder.part(notice.sha256)
        if not files.is_dir():
            if notice.size_bytes > self._max_bytes:
                raise AdapterFormatError(f"it has {notice.size_bytes} bytes; at most {self._max_bytes} are fetched")
            had = self._download(notice)
            self._tell("downloaded", event_id=notice.event_id, size_bytes=notice.size_bytes, resumed_from_bytes=had)
            try:
                unpack(part, files, Limits(max_bytes=_UNPACKED_TIMES * self._max_bytes))
            except AdapterFormatError:
                part.unlink()
                raise
            part.unlink()
        manifest = parse_packed((files / MANIFEST).read_bytes())
        for name in ("node_id", "base_model_id", "dataset_hash"):
            if (found := getattr(manifest, name)) != (wanted := getattr(notice, name)):
                shutil.rmtree(files)
                raise AdapterFormatError(f"its {name} is {found[:100]!r}, and {wanted[:100]!r} was announced")

    def _download(self, notice: ReadyNotice) -> int:
        if notice.is_good_at(self._now()):
            try:
                return self._download_from(notice.adapter_url, notice)
            except UnknownArtifactError:
                if self._service is None:
                    raise
        if self._service is None:
            raise UnknownArtifactError(f"its URL was good until {notice.expires_at.isoformat()}")
        url = self._service.artifact_url(notice.job_id)
        if url is None:
            raise UnknownArtifactError("the service has no other URL for it")
        self._tell("new_url", event_id=notice.event_id)
        return self._download_from(url, notice)

    def _download_from(self, url: str, notice: ReadyNotice) -> int:
        part = self._folder.part(notice.sha256)
        return download(url, part, size_bytes=notice.size_bytes, sha256=notice.sha256)
