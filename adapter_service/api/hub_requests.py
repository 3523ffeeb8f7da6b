"""From what a hub asks for to a job in the queue, or to the one that makes the same already."""

from __future__ import annotations

from typing import Any

from adapter_service.api import job_moves
from adapter_service.api.callers import Caller
from adapter_service.api.hub_answers import hub_answer, hub_status
from adapter_service.api.schemas.commands import HubJobAnswer
from adapter_service.api.services import Services
from adapter_service.base_models.locating import public_name
from adapter_service.commands.training_request import CommandTraining, read_training
from adapter_service.errors import ForbiddenError, UnknownJobError, WrongJobStateError
from adapter_service.jobs.job import Job
from adapter_service.jobs.node_jobs import Limits, Submitted


def base_names(services: Services) -> tuple[str, ...]:
    """What the resident base is called."""
    base = services.settings.model.base
    return tuple(dict.fromkeys((base, public_name(base))))


def training_asked(body: Any, services: Services, caller: Caller) -> tuple[CommandTraining, str | None]:
    """What the body of a training request asks for, and its `trace_id` where there is one.

    Raises:
        InvalidSchemaError: with every fault in it.
        ForbiddenError: the key is another node's.
    """
    training, trace_id = read_training(
        body, services.settings.commands, base_names=base_names(services), node_id=caller.node_id
    )
    if caller.node_id not in {None, training.node_id}:
        raise ForbiddenError(
            f"the key is of node {caller.node_id!r} and the request of another; leave node_id out, or use its own key"
        )
    return training, trace_id


def submit(training: CommandTraining, services: Services, *, trace_id: str) -> Submitted:
    """A job for `training`, with what follows from it: files of replaced jobs removed, whoever works woken."""
    rules = services.settings.commands
    key = training.content_key(rules)
    submitted = services.hub.jobs.submit(
        training,
        key,
        trace_id=trace_id,
        limits=Limits(rules.queue_size, rules.max_jobs_per_hour),
        bring=services.hub.delivering.bring,
    )
    for job in submitted.replaced:
        services.pipeline.forget(job.id)
    services.runner.wake()
    if submitted.deduped:
        services.versions.announce()
        services.hub.wake()
    return submitted


def job_of_node(job_id: str, services: Services, caller: Caller) -> Job:
    """A node's job that the caller may see, by our id or by the hub's.

    Raises:
        UnknownJobError: there is none, or it is no node's, or another's.
    """
    unknown = UnknownJobError(f"no job {job_id!r}; the id is `job_id` in the answer to the training request")
    try:
        job = services.jobs.get(services.hub.jobs.id_of(job_id))
    except UnknownJobError:
        raise unknown from None
    if job.node_id is None:
        raise unknown
    caller.check_node(job.node_id, unknown)
    return job


def cancel_job(job: Job, services: Services) -> HubJobAnswer:
    """End a waiting job now, a running one soon; of one that is trained already, its publication.

    Raises:
        WrongJobStateError: it has ended.
    """
    if not job.status.finished:
        return hub_answer(job_moves.cancel(job.id, services), services)
    if not services.hub.deliveries.withdraw(job.id):
        status = hub_status(job, services.hub.deliveries.get(job.id))
        raise WrongJobStateError(f"{job.id} is {status}; only a job that is not finished can be cancelled")
    services.hub.wake()
    return hub_answer(job, services)
