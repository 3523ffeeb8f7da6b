"""From the body of a training request to a job in the queue; what cannot succeed is refused here."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from functools import partial
from typing import Any

from adapter_service.adapters import check_name
from adapter_service.api.expectations import check_base, check_file, check_width
from adapter_service.api.schemas.training import TrainBody
from adapter_service.api.services import Services
from adapter_service.connectors.opening import configured
from adapter_service.connectors.raw import is_raw, open_raw
from adapter_service.errors import InvalidInputError, InvalidParameterError, SettingsError
from adapter_service.jobs.beginning import check_memory, check_same_base, check_targets, trained_with
from adapter_service.jobs.job import Job
from adapter_service.jobs.train_request import TrainRequest, going_on_from
from adapter_service.jobs.training_file import is_file_id
from adapter_service.languages import find
from adapter_service.settings import Settings


def accept(body: TrainBody, services: Services, *, trace_id: str, idempotency_key: str | None) -> Job:
    """A queued job, or the one that the same idempotency key made before."""
    request = request_of(body, services.settings)
    return queued(request, services, trace_id=trace_id, idempotency_key=idempotency_key)


def queued(
    request: TrainRequest,
    services: Services,
    *,
    trace_id: str,
    idempotency_key: str | None,
    asked: Mapping[str, Any] | None = None,
) -> Job:
    """A queued job, or the one that the same idempotency key made before; `asked` is kept with it.

    That one is found before anything is checked: what was accepted once is not refused because a
    source, or memory, is gone since.
    """
    given, adapter = request.given(), request.adapter
    if idempotency_key and (earlier := services.jobs.made_by(idempotency_key, given, adapter, asked)):
        return earlier
    check_possible(request, services)
    job = services.jobs.create(
        given,
        adapter=adapter,
        trace_id=trace_id,
        queue_limit=services.settings.serving.job_queue_size,
        idempotency_key=idempotency_key,
        asked=asked,
        also=partial(_check_file_is_there, request.source, services),
    )
    services.runner.wake()
    return job


def _check_file_is_there(source: str | None, services: Services, connection: sqlite3.Connection) -> None:
    """In the transaction that writes the job: from then on nobody deletes the file."""
    if source is not None and is_file_id(source):
        services.files.require(source, connection)


def estimate_of(job: Job, services: Services) -> dict[str, Any]:
    """How much the job is; of one that the settings of today, or the base, would refuse, why that is not known."""
    try:
        return dict(services.pipeline.estimate(TrainRequest(**job.request)))
    except InvalidInputError as error:
        unknown = dict.fromkeys(("samples", "steps", "seconds", "memory_mb"))
        return {**unknown, "message": f"not known, as the job cannot be trained so now: {error}"}


def request_of(body: TrainBody, settings: Settings) -> TrainRequest:
    """What the body asks for; one that expects another base or other files than these is refused."""
    check_base("base_model", body.base_model, settings.model)
    check_width("use_8bit", body.use_8bit, settings.quantization)
    check_width("use_4bit", body.use_4bit, settings.quantization)
    check_file("config_path", body.config_path, settings.config_path)
    check_file("mcp_config_path", body.mcp_config_path, settings.sources_path)
    return body.train_request(settings.serving.default_adapter)


def check_possible(request: TrainRequest, services: Services) -> None:
    """Refuse what cannot succeed, as far as that can be told now."""
    settings = services.settings
    check_name(request.adapter)
    _check_languages(request.languages)
    try:
        wanted = services.files.settings_for(request, settings)
    except SettingsError as error:
        raise InvalidParameterError(str(error)) from error
    check_source(wanted.data.source, wanted)
    _check_beginning(request, wanted, services)


def _check_beginning(request: TrainRequest, wanted: Settings, services: Services) -> None:
    """What only the base itself can tell is left to the job while the base loads."""
    engine, is_ready = services.engine, services.engine.state == "ready"
    if request.init_adapter is not None:
        parent = services.versions.resolve(request.init_adapter)
        wanted = going_on_from(trained_with(parent), request, wanted)
        if is_ready:
            check_same_base(parent, engine)
    elif is_ready:
        check_targets(wanted, engine)
    if is_ready:
        check_memory(wanted, engine)


def check_source(source: str, settings: Settings) -> None:
    """A configured name, an uploaded file's id, or an address that the allow-list lets through; nothing is read."""
    if is_raw(source):
        open_raw(source, settings.security.raw_sources)
    else:
        configured(settings, source)


def _check_languages(languages: list[str] | None) -> None:
    try:
        for language in languages or []:
            find(language)
    except InvalidParameterError as error:
        raise InvalidParameterError(str(error), parameter="languages") from error
