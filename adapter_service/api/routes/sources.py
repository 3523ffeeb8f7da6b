"""The configured sources, and their first samples."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query

from adapter_service.api.openapi import can_fail_with
from adapter_service.api.preview import preview
from adapter_service.api.schemas.sources import PreviewAnswer, PreviewQuery, SourceAnswer, SourceList
from adapter_service.api.services import Wired
from adapter_service.connectors.opening import configured
from adapter_service.settings import SourceEntry, masked

router = APIRouter(prefix="/sources", tags=["sources"])

# Of the web server's 40 threads; a source that stalls holds one for minutes, and the next look waits for it.
LOOKS = CapacityLimiter(4)


@router.get("")
def list_sources(services: Wired) -> SourceList:
    """What a training request may name as its `source`."""
    default = services.settings.data.source
    return SourceList(
        sources=[
            SourceAnswer(name=name, kind=entry.kind, default=name == default, options=_shown(entry))
            for name, entry in services.settings.sources.items()
        ]
    )


@router.get("/{name}/preview", responses=can_fail_with(404, 502))
async def preview_source(name: str, query: Annotated[PreviewQuery, Query()], services: Wired) -> PreviewAnswer:
    """The first samples, as training would get them but for the shuffling."""
    return await to_thread.run_sync(preview, configured(services.settings, name), query.n, limiter=LOOKS)


def _shown(entry: SourceEntry) -> dict[str, Any]:
    options: dict[str, Any] = masked({key: value for key, value in entry.options.items() if key != "headers"})
    if isinstance(options.get("path"), str):
        options["path"] = options["path"].replace("\\", "/").rpartition("/")[2]
    return options
