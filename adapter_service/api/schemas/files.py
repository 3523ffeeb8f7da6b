"""Files to train on, with the fields that OpenAI's clients know."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, QueryParameters
from adapter_service.jobs.training_file import FileStatus

PURPOSE = "fine-tune"
Purpose = Literal["fine-tune"]

# The body is read as it comes, so it is described here instead of by a model.
UPLOAD_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": 'UTF-8, one JSON object a line: {"messages": [...]}, or '
                            '{"prompt": "...", "completion": "..."}; a "language" may stand beside them.',
                        },
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                }
            }
        },
    }
}


class FileAnswer(Answer):
    id: str = Field(examples=["file-01JZ3V7Q5T9Q0ZK3F3W2Y8B6MN"])
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Seconds since 1970.")
    filename: str = Field(description="What the client called it.")
    purpose: str
    status: FileStatus = Field(description="`error` is a file that no job takes; `status_details` names its lines.")
    status_details: str | None
    expires_at: None = Field(description="Files stay until they are deleted.")


class FileList(Answer):
    object: Literal["list"] = "list"
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Answer):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileListQuery(QueryParameters):
    after: str | None = Field(default=None, max_length=100, description="The last file of the page before.")
    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = Field(default="desc", description="By the time of their creation.")
    purpose: str | None = Field(default=None, max_length=100, description=f"There are files for {PURPOSE!r} alone.")
