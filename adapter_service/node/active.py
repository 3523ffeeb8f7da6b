"""Which adapter a node uses: one small file that is written whole, and the folder that it names.

current.json                 the truth, replaced in one step
adapters/<sha256>/           unpacked; the one in use and the one before
downloads/<sha256>.part      what has come so far
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from adapter_service.durable import write_whole
from adapter_service.errors import AdapterFormatError
from adapter_service.node.notice import ReadyNotice, Sha256, Text

_CURRENT = "current.json"
_KEPT = 2


class Active(BaseModel):
    """The adapter in use, and the newest notice that spoke of it.

    `acknowledged` once the service knows that this node has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Text
    job_id: Text
    base_model_id: Text
    dataset_hash: Text
    sha256: Sha256
    created_at: AwareDatetime
    acknowledged: bool = False

    @classmethod
    def of(cls, notice: ReadyNotice) -> Active:
        return cls(**notice.model_dump(include=set(cls.model_fields) - {"acknowledged"}))


class NodeFolder:
    """Everything that a node keeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def active(self) -> Active | None:
        """The adapter in use.

        Raises:
            AdapterFormatError: the file that says so is damaged.
        """
        try:
            return Active.model_validate_json((self._folder / _CURRENT).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise AdapterFormatError(
                f"{_CURRENT} in the node's folder cannot be read ({error.error_count()} faults); remove it, and the "
                "next notice is taken"
            ) from None

    def activate(self, active: Active) -> None:
        """From now on it is this one, whose folder is there; older ones but the last go."""
        before = None
        with suppress(AdapterFormatError):
            before = self.active()
        write_whole(self._folder / _CURRENT, active.model_dump_json(indent=2) + "\n")
        kept = {active.sha256, *([before.sha256] if before is not None else [])}
        if before is None or before.sha256 != active.sha256:
            self._remove_others(kept)

    def files(self, sha256: str) -> Path:
        """Where the adapter of that hash is unpacked to."""
        return self._folder / "adapters" / sha256

    def part(self, sha256: str) -> Path:
        return self._folder / "downloads" / f"{sha256}.part"

    def _remove_others(self, kept: set[str]) -> None:
        for path in (self._folder / "adapters").iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        for path in (self._folder / "downloads").glob("*.part"):
            path.unlink(missing_ok=True)
