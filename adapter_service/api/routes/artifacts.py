"""A node's adapter for whoever has its signed URL: where artifacts lie in a folder, this service hands them out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from adapter_service.api.openapi import can_fail_with
from adapter_service.api.services import Wired
from adapter_service.delivery.artifact_store import FILENAME, MEDIA_TYPE
from adapter_service.delivery.deliveries import DeliveryStatus
from adapter_service.delivery.folder_artifacts import ROUTE, FolderArtifacts
from adapter_service.errors import UnknownArtifactError

router = APIRouter(tags=["commands"])

_PATH = f"{ROUTE}/{{token}}/{FILENAME}"
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The adapter.", "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "The part of it that `Range` names.", "content": {MEDIA_TYPE: {}}},
    416: {"description": "`Range` names nothing of it."},
}


@router.head(_PATH, include_in_schema=False)
@router.get(_PATH, response_class=FileResponse, responses={**_CONTENT, **can_fail_with(403, 404, 502)})
def get_artifact(token: str, services: Wired) -> FileResponse:
    """The adapter that this URL was made for, whole or in parts; the URL is all the proof that is needed."""
    artifacts = services.hub.artifacts
    if not isinstance(artifacts, FolderArtifacts):
        raise UnknownArtifactError("adapters lie in a bucket, and are fetched there; ask for the job again")
    grant = artifacts.grant(token)
    delivery = services.hub.deliveries.at(grant.object_key)
    if delivery is None or delivery.status is not DeliveryStatus.PUBLISHED or delivery.node_id != grant.node_id:
        raise UnknownArtifactError("the adapter was fetched or has expired; post the commands again")
    path, found = artifacts.file(grant.object_key)
    return FileResponse(
        path,
        media_type=MEDIA_TYPE,
        filename=FILENAME,
        stat_result=found,
        headers={"Cache-Control": "private, no-store", "ETag": f'"{delivery.sha256}"'},
    )
