"""The last file of an `adapter.zip`: for which node and commands it is, and what its files are, byte for byte.

Whoever unpacks one believes nothing of it: names are such as an adapter's files may have, sizes bound
what is read, and hashes are compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from adapter_service.adapters.artifact import MANIFEST, REQUIRED_FILES
from adapter_service.errors import AdapterFormatError
from adapter_service.publishing.manifest import StoredFile

MAX_MANIFEST_BYTES = 1_048_576
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# None of these runs anything when it is read.
_SUFFIXES = (".safetensors", ".json", ".md", ".txt", ".jinja", ".model")

Text = Annotated[str, Field(min_length=1, max_length=1000)]


def is_plain(name: str) -> bool:
    """Whether a file in an `adapter.zip` may be called so."""
    return _NAME.fullmatch(name) is not None and name.endswith(_SUFFIXES)


def _an_adapters(files: Mapping[str, StoredFile]) -> Mapping[str, StoredFile]:
    if wrong := sorted(name for name in files if not is_plain(name) or name == MANIFEST):
        raise ValueError(f"it names {wrong[0][:80]!r}, which no file of an adapter is called")
    if missing := sorted(REQUIRED_FILES - files.keys()):
        raise ValueError(f"it names no {missing[0]}")
    return files


class PackedManifest(BaseModel):
    """`created_at` is when the version was made, so that packing it again gives the same bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    node_id: Text
    base_model_id: Text
    dataset_hash: Text
    created_at: AwareDatetime
    files: Annotated[dict[str, StoredFile], AfterValidator(_an_adapters)]

    def to_bytes(self) -> bytes:
        return f"{json.dumps(self.model_dump(mode='json'), indent=2, ensure_ascii=False)}\n".encode()


def parse_packed(content: bytes) -> PackedManifest:
    """Read what somebody else wrote.

    Raises:
        AdapterFormatError: it is not what such a manifest is.
    """
    try:
        return PackedManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise AdapterFormatError(
            f"its {MANIFEST} is not one ({place}: {first['msg']}); have the adapter published again"
        ) from error
