"""GET /metrics: what Prometheus reads, whatever the base and the database do."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from adapter_service.api.services import Services
from adapter_service.engine.generations import Choice, GenerationResult
from adapter_service.engine.measures import Reading
from adapter_service.engine.requests import Ask, Sampling
from tests.api.conftest import MakeServices, client_of
from tests.conftest import SMALL_BASE
from tests.engine.asking import held
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

MODEL = f"model_name={SMALL_BASE}"


def scraped(client: TestClient) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_a_scrape_answers_while_the_base_loads(services: Services) -> None:
    with client_of(services) as client:
        series = scraped(client)
    assert series["adapter_service_base_ready"] == 0
    assert series[f"vllm:num_requests_waiting {MODEL}"] == 0


def test_what_the_engine_counts_is_told_with_the_name_of_its_base(client: TestClient, services: Services) -> None:
    services.engine.measures.prompt_read(7)
    services.engine.measures.finished(GenerationResult((Choice("x", "stop", 5),), 7, 0.5, 1.5))
    series = scraped(client)
    assert series[f"vllm:request_success_total finished_reason=stop {MODEL}"] == 1
    assert series[f"vllm:prompt_tokens_total {MODEL}"] == 7
    assert not any(name.partition(" ")[0].endswith("_created") for name in series)


def test_an_answer_is_counted_with_its_tokens_and_times(make_services: MakeServices, tiny_base: BaseModel) -> None:
    services = make_services(load_base=lambda note: tiny_base)
    with client_of(services) as client:
        services.engine.wait_until_ready(READY_SECONDS)
        body = {"prompt": "Hi", "adapter": "base", "max_new_tokens": 5, "min_new_tokens": 5}
        usage = client.post("/generate-lite", json=body).json()["usage"]
        series = scraped(client)
    assert series["adapter_service_base_ready"] == 1
    assert series[f"vllm:request_success_total finished_reason=length {MODEL}"] == 1
    assert series[f"vllm:prompt_tokens_total {MODEL}"] == usage["prompt_tokens"]
    assert series[f"vllm:generation_tokens_total {MODEL}"] == 5
    assert series[f"vllm:inter_token_latency_seconds_count {MODEL}"] == 4
    for once in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert series[f"vllm:{once}_seconds_count {MODEL}"] == 1
    assert series[f"vllm:num_requests_running {MODEL}"] == 0


def test_what_is_told_of_a_request_amid_its_answers(
    make_services: MakeServices, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two answers to one request are one request; their tokens are counted as they come, the prompt's once."""
    services = make_services(load_base=lambda note: tiny_base)
    with client_of(services) as client:
        engine = services.engine
        engine.wait_until_ready(READY_SECONDS)
        assert scraped(client)[f"vllm:kv_cache_usage_perc {MODEL}"] == 0
        assert engine._serving is not None
        batch, amid = engine._serving.scheduler._batch, list[dict[str, float]]()
        real = batch.step

        def step() -> Any:
            amid.append(scraped(client))
            return real()

        monkeypatch.setattr(batch, "step", step)
        sampling = Sampling(max_new_tokens=4, min_new_tokens=4)
        assert engine.submit(Ask([5, 6, 7], sampling, count=2)).result(30).completion_tokens == 8
        after = scraped(client)
    assert [one[f"vllm:num_requests_running {MODEL}"] for one in amid] == [1, 1, 1]
    assert [one[f"vllm:generation_tokens_total {MODEL}"] for one in amid] == [2, 4, 6]
    assert [one[f"vllm:prompt_tokens_total {MODEL}"] for one in amid] == [3, 3, 3]
    assert [one[f"vllm:kv_cache_usage_perc {MODEL}"] for one in amid] == [1, 1, 1]  # of two places there are two
    assert after[f"vllm:generation_tokens_total {MODEL}"] == 8
    assert (after[f"vllm:num_requests_running {MODEL}"], after[f"vllm:kv_cache_usage_perc {MODEL}"]) == (0, 0)


def test_one_whose_client_leaves_while_it_waits_is_counted_as_aborted(
    make_services: MakeServices, tiny_base: BaseModel
) -> None:
    services = make_services(load_base=lambda note: tiny_base)
    with client_of(services) as client:
        engine = services.engine
        engine.wait_until_ready(READY_SECONDS)
        with held(engine):
            left = [engine.submit(Ask([5], Sampling(max_new_tokens=1))) for _ in range(2)]
            left[0].cancel()
            engine.submit(Ask([5], Sampling(max_new_tokens=1)))  # finds that one in the line
            assert scraped(client)[f"vllm:request_success_total finished_reason=abort {MODEL}"] == 1
            left[1].cancel()
        assert left[1].result(30).only.finish_reason == "cancelled"
        series = scraped(client)
    assert series[f"vllm:request_success_total finished_reason=abort {MODEL}"] == 2
    assert series[f"vllm:num_requests_waiting {MODEL}"] == 0


def test_jobs_are_told_by_status(client: TestClient) -> None:
    assert client.post("/adapter/train-lite", json={}).status_code == 202
    series = scraped(client)
    assert series["adapter_service_jobs status=queued"] == 1
    assert series["adapter_service_jobs status=failed"] == 0


def test_adapters_are_told_by_their_names_and_one_that_is_gone_by_its_key(
    client: TestClient, services: Services
) -> None:
    with services.database.transaction() as connection:
        connection.execute(
            "INSERT INTO versions (adapter, number, key, status, created_at, base_id, gate) "
            "VALUES ('hindi', 3, 'k1', 'live', '2026-01-01T00:00:00+00:00', 'b', '{}')"
        )
    services.engine.measures.watch(lambda: Reading(running_adapters=("k1", "gone"), waiting_adapters=("k1",)))
    (info,) = (name for name in scraped(client) if name.startswith("vllm:lora_requests_info"))
    assert "running_lora_adapters=hindi@3,gone waiting_lora_adapters=hindi@3" in info


def test_a_damaged_database_hides_the_jobs_and_the_names_of_adapters_and_nothing_else(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(services.database, "read", damaged)
    services.engine.measures.watch(lambda: Reading(running=1, running_adapters=("k1",)))
    series = scraped(client)
    assert series[f"vllm:num_requests_running {MODEL}"] == 1
    assert any("running_lora_adapters=k1" in name for name in series)
    assert not any(name.startswith("adapter_service_jobs") for name in series)
