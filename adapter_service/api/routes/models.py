"""The base and the adapters, as OpenAI's clients list them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version, VersionStatus
from adapter_service.api.model_choice import choose_model
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.models import ModelAnswer, ModelList, ModelQuery
from adapter_service.api.services import Services, Wired
from adapter_service.base_models.locating import public_name

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models")
def list_models(query: Annotated[ModelQuery, Query()], services: Wired) -> ModelList:
    """The base and every adapter that has a live version; what a request can name as its `model`."""
    return ModelList(data=list(_models(services, versions=query.versions)))


@router.get("/models/{model:path}", responses=can_fail_with(404))
def retrieve_model(model: str, services: Wired) -> ModelAnswer:
    """What one name means now: the base, an adapter's live version, or exactly `adapter@version`."""
    chosen = choose_model(model, services)
    return _adapter(model, chosen.version, services) if chosen.version else _base(model, services)


def _models(services: Services, *, versions: bool) -> Iterator[ModelAnswer]:
    yield _base(BASE, services)
    known = services.versions.list()
    for version in known:
        if version.status is VersionStatus.LIVE:
            yield _adapter(version.adapter, version, services)
    if versions:
        for version in known:
            yield _adapter(version.reference, version, services)


def _base(name: str, services: Services) -> ModelAnswer:
    return ModelAnswer(
        id=name,
        created=int(services.started_at.timestamp()),
        root=public_name(services.settings.model.base),
        parent=None,
        max_model_len=_longest(services),
    )


def _adapter(name: str, version: Version, services: Services) -> ModelAnswer:
    return ModelAnswer(
        id=name,
        created=int(version.created_at.timestamp()),
        root=version.reference,
        parent=BASE,
        max_model_len=_longest(services),
    )


def _longest(services: Services) -> int | None:
    """Tokens of a prompt and its answer that are taken at most; not known before the base is."""
    if services.engine.state != "ready":
        return None
    serving = services.settings.serving
    return min(services.engine.base.context_tokens, serving.max_prompt_tokens + serving.max_new_tokens_limit)
