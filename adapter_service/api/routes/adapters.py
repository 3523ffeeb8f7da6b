"""Adapters, their versions, and the way back to the version before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

from fastapi import APIRouter

from adapter_service.adapters import Version, VersionStatus
from adapter_service.adapters.uploads import Upload
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.adapters import AdapterAnswer, AdapterList, RollbackAnswer, VersionAnswer
from adapter_service.api.services import Wired
from adapter_service.base_models.locating import public_name

router = APIRouter(prefix="/adapter", tags=["adapters"])


@router.get("/list")
def list_adapters(services: Wired) -> AdapterList:
    """Every adapter with every version; rejected ones are listed and never served by name alone."""
    uploads: defaultdict[str, list[Upload]] = defaultdict(list)
    for upload in services.uploads.list():
        uploads[upload.reference].append(upload)
    by_name = groupby(services.versions.list(), key=lambda version: version.adapter)
    return AdapterList(
        adapters=[_adapter(name, list(versions), uploads) for name, versions in by_name],
        base=public_name(services.settings.model.base),
        default_adapter=services.settings.serving.default_adapter,
    )


@router.post("/{name}/rollback", responses=can_fail_with(404, 409, 507))
def roll_back(name: str, services: Wired) -> RollbackAnswer:
    """Serve the version that was live before the present one."""
    version = services.versions.rollback(name)
    return RollbackAnswer(adapter=name, live_version=version.number, message=f"{version.reference} is live again")


def _adapter(name: str, versions: list[Version], uploads: Mapping[str, Sequence[Upload]]) -> AdapterAnswer:
    live = (version.number for version in versions if version.status is VersionStatus.LIVE)
    return AdapterAnswer(
        name=name,
        live_version=next(live, None),
        versions=[VersionAnswer.of(version, uploads.get(version.reference, ())) for version in versions],
    )
