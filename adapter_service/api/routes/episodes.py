"""Record episodes, and say what was recorded and sent."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from adapter_service.api.episode_log import Given
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.episodes import (
    CollectAnswer,
    CollectBody,
    EpisodeCounts,
    GivenEpisode,
    RlStatus,
    ScoredEpisode,
)
from adapter_service.api.services import Wired
from adapter_service.api.tracing import use_trace_id
from adapter_service.errors import BusyError, InvalidParameterError
from adapter_service.languages import Language, find
from rl.episodes import as_json
from rl.errors import RecordError

router = APIRouter(prefix="/rl", tags=["episodes"])

WRITING_SECONDS = 30.0


@router.post("/collect", responses=can_fail_with(429, 507))
def collect(body: CollectBody, request: Request, services: Wired) -> CollectAnswer:
    """Record episodes that the caller has; they are scored, written, and sent with those of the service."""
    log = services.episodes
    trace_id = use_trace_id(request, body.trace_id)
    run_id, env_name = body.run_id or log.run_id, body.env_name or log.settings.env_name
    # All are checked before any is handed over: a request that is refused has recorded nothing, and may come again.
    given = [_given(episode, place, run_id, env_name, trace_id) for place, episode in enumerate(body.episodes)]
    futures = log.record_all(given)
    if futures is None:
        raise BusyError(f"the {log.settings.queue_size} episodes that may wait are waiting; try again in some seconds")
    return CollectAnswer(run_id=run_id, episodes=[_written(future) for future in futures], trace_id=trace_id)


def _given(episode: GivenEpisode, place: int, run_id: str, env_name: str, trace_id: str) -> Given:
    try:
        as_json(episode.meta)
    except RecordError as error:
        raise InvalidParameterError(str(error), parameter=f"episodes[{place}].meta") from error
    return Given(episode.model_dump(), _language(episode.language, place), run_id, env_name, trace_id)


def _language(name: str | None, place: int) -> Language | None:
    try:
        return None if name is None else find(name)
    except InvalidParameterError as error:
        raise InvalidParameterError(str(error), parameter=f"episodes[{place}].language") from error


def _written(future: Future[Any]) -> ScoredEpisode:
    try:
        row = future.result(WRITING_SECONDS)
    except TimeoutError as error:
        raise BusyError("the episodes are not written yet; look at /rl/status before you send them again") from error
    return ScoredEpisode(**{name: row[name] for name in ScoredEpisode.model_fields})


@router.get("/status")
def status(services: Wired) -> RlStatus:
    """What was recorded, what was dropped, and what has gone where."""
    log = services.episodes
    uploader = log.uploader
    return RlStatus(
        log_generations=log.logs_generations,
        run_id=log.run_id,
        episodes=EpisodeCounts(**asdict(log.recorder.counts)),
        upload_to=uploader.label if uploader else None,
        shards_waiting=uploader.waiting() if uploader else 0,
        shards_sent=uploader.sent if uploader else 0,
        upload_error=uploader.last_error if uploader else None,
    )
