"""What the engine counts is told under the names, and with the meaning, that vLLM's dashboards expect."""

from __future__ import annotations

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from adapter_service.engine.generations import Choice, FinishReason, GenerationResult
from adapter_service.engine.measures import Measures, Reading


def told(measures: Measures) -> dict[str, float]:
    """Each series of the text, read as Prometheus reads it."""
    families = text_string_to_metric_families(generate_latest(measures.registry).decode())
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def result(*reasons: FinishReason) -> GenerationResult:
    return GenerationResult(tuple(Choice("x", reason, 5) for reason in reasons), 7, waited_seconds=0.5, seconds=1.5)


def test_a_request_is_counted_once_with_all_its_tokens() -> None:
    measures = Measures()
    measures.admitted(0.5)
    measures.prompt_read(7)
    measures.first_token(0.7)
    for _ in range(10):
        measures.generated(1)
    measures.token(0.02)
    measures.finished(result("stop", "stop"))
    series = told(measures)
    assert series["vllm:request_success_total finished_reason=stop"] == 1
    assert (series["vllm:prompt_tokens_total"], series["vllm:generation_tokens_total"]) == (7, 10)
    assert series["vllm:e2e_request_latency_seconds_sum"] == 2.0
    assert series["vllm:request_queue_time_seconds_sum"] == 0.5
    assert series["vllm:time_to_first_token_seconds_sum"] == 0.7
    assert series["vllm:inter_token_latency_seconds_sum"] == 0.02


@pytest.mark.parametrize(
    ("reasons", "told_as"),
    [(["stop"], "stop"), (["length"], "length"), (["stop", "length"], "length"), (["length", "cancelled"], "abort")],
)
def test_it_ends_for_one_reason_in_the_words_of_vllm(reasons: list[FinishReason], told_as: str) -> None:
    measures = Measures()
    measures.finished(result(*reasons))
    ended = {name: count for name, count in told(measures).items() if "request_success_total" in name}
    assert ended.pop(f"vllm:request_success_total finished_reason={told_as}") == 1
    assert set(ended.values()) == {0}


def test_one_that_fails_is_counted_apart() -> None:
    measures = Measures()
    measures.corrupted()
    measures.failed()
    series = told(measures)
    assert series["vllm:request_success_total finished_reason=error"] == 1
    assert series["vllm:corrupted_requests_total"] == 1
    assert series["vllm:e2e_request_latency_seconds_count"] == 0


def test_how_the_engine_is_gets_read_when_somebody_asks() -> None:
    measures = Measures()
    readings = iter([Reading(running=3, adapter_loads=5, served_seconds=1.0, trained_seconds=0.25), Reading(running=1)])
    measures.watch(lambda: next(readings))
    first, second = told(measures), told(measures)
    assert (first["vllm:num_requests_running"], second["vllm:num_requests_running"]) == (3, 1)
    assert first["adapter_service_adapter_loads_total"] == 5
    assert first["adapter_service_engine_seconds_total doing=training"] == 0.25


def test_those_that_run_are_told_apart_from_those_that_wait() -> None:
    measures = Measures()
    measures.watch(lambda: Reading(max_adapters=2, running_adapters=("a", "b"), waiting_adapters=("c",)))
    (info,) = (name for name in told(measures) if name.startswith("vllm:lora_requests_info"))
    assert info == "vllm:lora_requests_info max_lora=2 running_lora_adapters=a,b waiting_lora_adapters=c"


def test_two_engines_in_one_process_count_for_themselves() -> None:
    one, other = Measures(), Measures()
    one.adapter_loaded(0.03)
    assert told(one)["adapter_service_adapter_load_seconds_count"] == 1
    assert told(other)["adapter_service_adapter_load_seconds_count"] == 0
