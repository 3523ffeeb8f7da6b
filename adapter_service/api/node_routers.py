"""Which commands a node's sentences are routed to: those that its live adapter has learned, else its newest ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from zoneinfo import ZoneInfo

from adapter_service.adapters import Version
from adapter_service.api.node_chats import NodeRouter
from adapter_service.commands.router import Router
from adapter_service.commands.shortlist import Embed
from adapter_service.commands.training_request import CommandTraining
from adapter_service.commands.validation import read_commands
from adapter_service.errors import (
    ConflictError,
    DamagedJobError,
    InvalidSchemaError,
    NothingToLearnError,
    UnknownJobError,
    UnknownNodeError,
)
from adapter_service.jobs.job import Job
from adapter_service.jobs.node_jobs import NodeJobs
from adapter_service.jobs.store import JobStore
from adapter_service.settings import CommandSettings

_MOST_KEPT = 64


class NodeRouters:
    """Made when they are first asked for; the latest ones are kept."""

    def __init__(self, node_jobs: NodeJobs, jobs: JobStore, settings: CommandSettings, embed: Embed) -> None:
        self._node_jobs = node_jobs
        self._jobs = jobs
        self._settings = settings
        self._embed = embed
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, NodeRouter] = OrderedDict()

    def of(self, node_id: str, live: Version | None) -> NodeRouter:
        """Of the commands that `live` has learned, or where it is None those that the node posted last.

        Raises:
            UnknownNodeError: it has posted none.
            ConflictError: its hub has prompts of its own, and ours would not be understood.
        """
        job = self._job_of(node_id, live)
        if _has_own_prompts(job):
            raise ConflictError(
                f"node {node_id!r} is trained with its hub's own prompts; send these to POST /v1/chat/completions, "
                f"model {job.adapter!r}"
            )
        return self._router(job)

    def waiting_for(self, adapter: str) -> NodeRouter | None:
        """Of the commands posted last by the node whose `adapter` is not live yet; None of one that is no node's.

        None too where the hub has prompts of its own, which the base cannot know.
        """
        node_id = self._node_jobs.node_of(adapter)
        if node_id is None or _has_own_prompts(self._job_of(node_id, None)):
            return None
        return self.of(node_id, None)

    def of_version(self, version: Version | None) -> NodeRouter | None:
        """Of the commands that `version` has learned; None of the base, and of an adapter that is no node's.

        None too where a hub's own prompts were learned: it sends them itself.
        """
        job = None if version is None else self._job_that_made(version)
        return None if job is None or job.node_id is None or _has_own_prompts(job) else self._router(job)

    def _router(self, job: Job) -> NodeRouter:
        with self._lock:
            if (kept := self._kept.get(job.id)) is not None:
                self._kept.move_to_end(job.id)
                return kept
        made = self._made(job)
        with self._lock:
            self._kept[job.id] = made
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def _job_of(self, node_id: str, live: Version | None) -> Job:
        found = None if live is None else self._job_that_made(live)
        if found is not None and found.node_id == node_id:
            return found
        newest = next(iter(self._node_jobs.newest(node_id, limit=1)), None)
        if newest is None:
            raise UnknownNodeError(
                f"node {node_id!r} has posted no commands yet; post them with POST /api/v0/adapters/train"
            )
        return newest

    def _job_that_made(self, version: Version) -> Job | None:
        try:
            return None if version.job_id is None else self._jobs.get(version.job_id)
        except (UnknownJobError, DamagedJobError):
            return None

    def _made(self, job: Job) -> NodeRouter:
        training = CommandTraining.from_dict(job.request)
        recipe = training.recipe(self._settings)
        try:
            commands = read_commands(training.commands, recipe)
            router = Router(commands, holdout_fraction=recipe.holdout_fraction, embed=self._embed)
        except (InvalidSchemaError, NothingToLearnError) as error:  # the rules have become narrower since
            raise UnknownNodeError(
                f"the commands of node {job.node_id!r} are not allowed any more ({error}); post them anew"
            ) from error
        return NodeRouter(router, ZoneInfo(training.time_zone))


def _has_own_prompts(job: Job) -> bool:
    return bool(job.request.get("formatted"))
