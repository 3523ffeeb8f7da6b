"""What a store says of a version: where it came from, and what its files are, byte for byte.

It is written last and read first. Nothing in it is believed: names are those that an adapter's files
may have, sizes bound what is read, and hashes are compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from adapter_service import adapter_names
from adapter_service.adapters import Version
from adapter_service.adapters.artifact import (
    KEY_PATTERN,
    MANIFEST,
    OPTIONAL_FILES,
    REQUIRED_FILES,
    damaged,
    read_manifest,
)
from adapter_service.errors import AdapterFormatError

MAX_MANIFEST_BYTES = 1_048_576
MAX_FILE_BYTES = 1 << 40
# All but the weights: a card, settings, metadata.
MAX_TEXT_BYTES = 16 * 1_048_576
WEIGHTS = "adapter_model.safetensors"

Key = Annotated[str, Field(pattern=f"^{KEY_PATTERN}$")]
Text = Annotated[str, Field(max_length=1000)]


class StoredFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _adapters_own(files: Mapping[str, StoredFile]) -> Mapping[str, StoredFile]:
    if unknown := sorted(files.keys() - REQUIRED_FILES - OPTIONAL_FILES):
        raise ValueError(f"it names {unknown[0][:80]!r}, which is no file of an adapter")
    if missing := sorted(REQUIRED_FILES - files.keys()):
        raise ValueError(f"it names no {missing[0]}")
    if large := sorted(name for name in files.keys() - {WEIGHTS} if files[name].size_bytes > MAX_TEXT_BYTES):
        raise ValueError(f"{large[0]} has {files[large[0]].size_bytes} bytes; at most {MAX_TEXT_BYTES} are allowed")
    return files


def _finite(gate: Mapping[str, Any]) -> Mapping[str, Any]:
    json.dumps(gate, allow_nan=False)
    return gate


class StoredVersion(BaseModel):
    """A version as its manifest in a store has it; `number` counts on the machine that pushed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    adapter: Annotated[str, Field(pattern=adapter_names.PATTERN)]
    number: Annotated[int, Field(ge=1, le=999_999_999)]
    key: Key
    base_name: Text
    base_id: Text
    parent_key: Key | None
    created_at: AwareDatetime
    gate: Annotated[dict[str, Any], AfterValidator(_finite)]
    files: Annotated[dict[str, StoredFile], AfterValidator(_adapters_own)]

    @property
    def reference(self) -> str:
        return f"{self.adapter}@{self.number}"

    @property
    def content(self) -> dict[str, StoredFile]:
        """What answers follow from; cards and metadata tell the time of a training, and differ where this does not."""
        return {name: self.files[name] for name in sorted(REQUIRED_FILES)}

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def to_bytes(self) -> bytes:
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()


def manifest_of(version: Version) -> StoredVersion:
    """What a store shall say of a version that lies here.

    Raises:
        AdapterFormatError: its own manifest or its config cannot be read.
    """
    return StoredVersion(
        adapter=version.adapter,
        number=version.number,
        key=version.key,
        base_name=_base_name(version),
        base_id=version.base_id,
        parent_key=version.parent_key,
        created_at=version.created_at,
        gate=dict(version.gate),
        files=files_of(version),
    )


def files_of(version: Version) -> dict[str, StoredFile]:
    """What the manifest of a version that lies here says of its files.

    Raises:
        AdapterFormatError: it is none.
    """
    found = read_manifest(version.path)
    try:
        return dict(_adapters_own({name: StoredFile.model_validate(described) for name, described in found.items()}))
    except ValueError as error:
        raise damaged(version.path, f"its {MANIFEST} does not describe an adapter's files") from error


def _base_name(version: Version) -> str:
    try:
        config = dict(json.loads((version.path / "adapter_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged(version.path, f"its adapter_config.json cannot be read ({type(error).__name__})") from error
    return str(config.get("base_model_name_or_path", ""))[:1000]


def parse_manifest(content: bytes, where: str) -> StoredVersion:
    """Read what somebody else wrote; `where` is for the message.

    Raises:
        AdapterFormatError: it is not what a manifest is.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise AdapterFormatError(f"the manifest {where} has more than {MAX_MANIFEST_BYTES} bytes; it is not read")
    try:
        return StoredVersion.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        fault = f"{place}: {first['msg']}" if place else first["msg"]
    except (ValueError, RecursionError) as error:
        fault = str(error)
    raise AdapterFormatError(f"the manifest {where} is not one: {fault}; push the version again")


def megabytes(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / 100_000) / 10:g} MB"
