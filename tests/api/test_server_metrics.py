"""Metrics of the servers that answer in the engine's place, among our own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from adapter_service.api.server_metrics import with_servers

THEIRS = """# HELP vllm:generation_tokens_total Theirs.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 7.0
# TYPE only_theirs histogram
only_theirs_bucket{le="+Inf"} 3.0
only_theirs_count 3.0
only_theirs_sum 1.5
"""


def scraped(servers: list[tuple[str, str]]) -> str:
    """As Prometheus gets it, read once more by its own parser."""
    registry = CollectorRegistry()
    Counter("vllm:generation_tokens", "Ours.", registry=registry).inc(2)
    Gauge("ours", "Ours.", registry=registry).set(1)

    class Scrape(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return with_servers(registry.collect(), servers)

    text = generate_latest(Scrape()).decode()
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))
    return text


def test_a_family_that_several_have_is_told_once() -> None:
    text = scraped([("gpu-1", THEIRS), ("gpu-2", THEIRS)])
    assert text.count("# TYPE vllm:generation_tokens_total counter") == 1
    assert "vllm:generation_tokens_total 2.0" in text
    for server in ("gpu-1", "gpu-2"):
        assert f'vllm:generation_tokens_total{{engine="0",server="{server}"}} 7.0' in text
        assert f'only_theirs_sum{{server="{server}"}} 1.5' in text


def test_what_cannot_be_read_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    text = scraped([("gpu-1", "a { b"), ("gpu-2", THEIRS)])
    assert 'server="gpu-2"' in text
    assert 'server="gpu-1"' not in text
    assert "the metrics of gpu-1 cannot be read" in caplog.text


def test_one_of_another_type_is_not_mixed_in() -> None:
    text = scraped([("gpu-1", '# TYPE ours histogram\nours_bucket{le="+Inf"} 5\nours_count 5\nours_sum 5\n')])
    assert "ours 1.0" in text
    assert "5.0" not in text
