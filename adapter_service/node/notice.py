"""What a broker brings: that an adapter is ready. Read as something that anybody may have written."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from adapter_service.errors import InvalidParameterError

MAX_NOTICE_BYTES = 65_536
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReadyNotice(BaseModel):
    """Fields that a newer service may add are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event: Literal["adapter_ready"]
    event_id: Text
    job_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
    node_id: Text
    base_model_id: Text
    dataset_hash: Text
    adapter_url: Annotated[str, Field(pattern=r"^https?://", max_length=8192, repr=False)]
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=1)]
    created_at: AwareDatetime
    expires_at: AwareDatetime

    def is_good_at(self, now: datetime) -> bool:
        """Whether its URL may still be."""
        return now < self.expires_at


def read_notice(payload: bytes, node_id: str) -> ReadyNotice:
    """The notice in a message.

    Raises:
        InvalidParameterError: it is none, or another node's.
    """
    if len(payload) > MAX_NOTICE_BYTES:
        raise InvalidParameterError(f"it has {len(payload)} bytes; a notice has at most {MAX_NOTICE_BYTES}")
    try:
        notice = ReadyNotice.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:80] for part in first["loc"])
        raise InvalidParameterError(f"it is no notice of an adapter ({place}: {first['msg']})") from None
    if notice.node_id != node_id:
        raise InvalidParameterError(f"it is for the node {notice.node_id[:100]!r}, and this is {node_id!r}")
    return notice
