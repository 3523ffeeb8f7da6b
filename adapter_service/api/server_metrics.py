"""Metrics of the servers that answer in the engine's place, among our own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

log = logging.getLogger(__name__)

LABEL = "server"


def with_servers(own: Iterable[Metric], servers: Iterable[tuple[str, str]]) -> Iterator[Metric]:
    """All of `own`, and each server's from its text, with its name as the label `server`.

    A family that several have is told once, with the samples of all: twice would be no text that Prometheus reads.
    """
    families = {metric.name: metric for metric in own}
    for name, text in servers:
        try:
            theirs = list(text_string_to_metric_families(text))
        except ValueError as error:
            log.warning("the metrics of %s cannot be read: %s", name, error, extra={"action": "metrics_unreadable"})
            continue
        for metric in theirs:
            metric.samples = [sample._replace(labels={**sample.labels, LABEL: name}) for sample in metric.samples]
            known = families.setdefault(metric.name, metric)
            if known is not metric and known.type == metric.type:
                known.samples = [*known.samples, *metric.samples]
    yield from families.values()
