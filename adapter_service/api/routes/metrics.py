"""What Prometheus scrapes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from adapter_service.api.server_metrics import LABEL, with_servers
from adapter_service.api.services import Services, Wired
from adapter_service.base_models.locating import public_name
from adapter_service.storage_faults import storage_fault

router = APIRouter(tags=["health"])

# Like /health: the web server's threads may all wait.
_own_thread = ThreadPoolExecutor(1, "metrics")
_ADAPTERS = ("running_lora_adapters", "waiting_lora_adapters")
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "vllm:num_requests_running 1.0\n"}},
    }
}


@router.get("/metrics", response_class=Response, responses=_TEXT)
async def metrics(services: Wired) -> Response:
    """For Prometheus, under vLLM's names where the meaning is the same; waits for nothing that the model does.

    Where servers of others answer, theirs are here too, with the label `server`: waited for two seconds at most.
    """
    text = await asyncio.get_running_loop().run_in_executor(_own_thread, generate_latest, _Scrape(services))
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Scrape(Collector):
    """Everything that is told, once."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        backend = self._services.engine.backend
        return with_servers(self._own(), backend.metrics() if backend is not None else [])

    def _own(self) -> Iterator[Metric]:
        yield from map(self._labelled, self._services.engine.measures.registry.collect())
        ready = self._services.engine.state == "ready"
        yield GaugeMetricFamily("adapter_service_base_ready", "1 once the base can answer.", ready)
        if (backend := self._services.engine.backend) is not None:
            up = GaugeMetricFamily("adapter_service_backend_up", "1 where a server answers.", labels=[LABEL])
            for name, fault in backend.servers:
                up.add_metric([name], fault is None)
            yield up
        yield from self._jobs()

    def _labelled(self, metric: Metric) -> Metric:
        """With the base's name, which the engine does not know before it is loaded, and adapters by their names.

        Without the times at which series began, which double their number and are of no use in this format.
        """
        model = {"model_name": public_name(self._services.settings.model.base)}
        metric.samples = [
            sample._replace(labels=model | self._named(sample.labels))
            for sample in metric.samples
            if not sample.name.endswith("_created")
        ]
        return metric

    def _named(self, labels: dict[str, str]) -> dict[str, str]:
        """Version keys as `adapter@version`; one whose row is gone or cannot be read stays as it is."""
        keys = [key for label in _ADAPTERS for key in labels.get(label, "").split(",") if key]
        if not keys:
            return labels
        try:
            names = self._services.versions.references(keys)
        except sqlite3.Error as error:
            if storage_fault(error) is None:
                raise
            return labels
        named = {label: ",".join(names.get(key, key) for key in labels[label].split(",")) for label in _ADAPTERS}
        return labels | named

    def _jobs(self) -> Iterator[Metric]:
        """Nothing where the database cannot be read: a number that is not known is no number."""
        try:
            counts = self._services.jobs.counts()
        except sqlite3.Error as error:
            if storage_fault(error) is None:
                raise
            return
        jobs = GaugeMetricFamily("adapter_service_jobs", "Training jobs by status.", labels=["status"])
        for status, count in counts.items():
            jobs.add_metric([status], count)
        yield jobs
