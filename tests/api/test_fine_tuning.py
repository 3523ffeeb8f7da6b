"""What a fine-tuning request becomes, and how jobs of every kind are told: without training anything."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.jobs.job import Phase
from tests.api.conftest import MakeServices, client_of

JOBS = "/v1/fine_tuning/jobs"


def create(client: TestClient, **fields: Any) -> Any:
    answer = client.post(JOBS, json={"model": "base", "training_file": "source:small", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked_for(services: Services, job: Any) -> dict[str, Any]:
    return dict(services.jobs.get(job["id"].replace("ftjob-", "job_")).request)


def test_hyperparameters_become_settings_of_ours(client: TestClient, services: Services) -> None:
    given = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5}
    job = create(client, method={"type": "supervised", "supervised": {"hyperparameters": given}}, seed=7)
    assert asked_for(services, job) == {
        "adapter": "multilingual",
        "source": "small",
        "num_epochs": 3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.5 * services.settings.training.learning_rate,
        "seed": 7,
    }
    assert (job["hyperparameters"], job["seed"]) == (given, 7)
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": given}}


def test_auto_and_nothing_at_all_are_what_is_configured(make_services: MakeServices) -> None:
    services = make_services(
        training={"num_epochs": 4, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 5, "seed": 9}
    )
    client = client_of(services)
    auto = dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
    jobs = [create(client, hyperparameters=auto), create(client)]
    for job in jobs:
        assert asked_for(services, job) == {"adapter": "multilingual", "source": "small"}
        assert job["hyperparameters"] == {"n_epochs": 4, "batch_size": 15, "learning_rate_multiplier": 1.0}
        assert job["seed"] == 9


def test_the_older_and_the_newer_place_of_hyperparameters_may_say_the_same(client: TestClient) -> None:
    given = {"n_epochs": 2}
    same = create(
        client, hyperparameters=given, method={"type": "supervised", "supervised": {"hyperparameters": given}}
    )
    assert same["hyperparameters"]["n_epochs"] == 2


def test_a_learning_rate_beyond_all_bounds_is_refused_in_the_callers_words(make_services: MakeServices) -> None:
    client = client_of(make_services(training={"learning_rate": 0.1}))
    assert create(client, hyperparameters={"learning_rate_multiplier": 10})
    body = {"model": "base", "training_file": "source:small", "hyperparameters": {"learning_rate_multiplier": 11}}
    refused = client.post(JOBS, json=body)
    assert refused.status_code in {400, 422}
    assert "'learning_rate_multiplier' is 11" in refused.text


def test_a_repeated_request_with_the_same_key_is_the_same_job_and_another_one_a_conflict(client: TestClient) -> None:
    def send(**fields: Any) -> Any:
        body = {"model": "base", "training_file": "source:small", **fields}
        return client.post(JOBS, json=body, headers={"Idempotency-Key": "k"})

    first, again, other = send(metadata={"a": "b"}), send(metadata={"a": "b"}), send(metadata={"a": "c"})
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 409


def test_a_job_of_the_other_route_is_told_with_what_it_has(client: TestClient) -> None:
    body = {"source": "small", "learning_rate": 0.002, "num_epochs": 2, "adapter": "hindi"}
    job_id = client.post("/adapter/train-lite", json=body).json()["job_id"]
    job = client.get(f"{JOBS}/ftjob-{job_id.removeprefix('job_')}").json()
    assert (job["training_file"], job["metadata"], job["fine_tuned_model"]) == ("source:small", None, None)
    assert (job["hyperparameters"]["n_epochs"], job["hyperparameters"]["learning_rate_multiplier"]) == (2, 2.0)
    assert client.get(JOBS).json()["data"] == [job]


def test_a_job_that_failed_says_why_and_its_last_event_too(client: TestClient, services: Services) -> None:
    job = create(client)
    running = services.jobs.claim_next()
    assert running is not None
    services.jobs.progress(running, phase=Phase.TRAINING, metrics={"seconds_left": 60.0})
    told = client.get(f"{JOBS}/{job['id']}").json()
    assert told["status"] == "running"
    assert told["estimated_finish"] >= told["created_at"] + 59
    services.jobs.fail(running, "empty_source", "source 'small' has no records in /srv/data/x.jsonl")
    told = client.get(f"{JOBS}/{job['id']}").json()
    message = "source 'small' has no records in x.jsonl"
    assert (told["status"], told["error"]) == ("failed", {"code": "empty_source", "message": message, "param": None})
    assert (told["estimated_finish"], told["trained_tokens"], told["fine_tuned_model"]) == (None, None, None)
    (last,) = client.get(f"{JOBS}/{job['id']}/events?limit=1").json()["data"]
    assert (last["level"], last["message"]) == ("error", f"the job failed: {message}")
    assert last["data"] == {"code": "empty_source"}


def test_a_version_that_was_there_already_is_the_jobs_which_trained_nothing(
    client: TestClient, services: Services
) -> None:
    job = create(client)
    running = services.jobs.claim_next()
    assert running is not None
    result: dict[str, Any] = {
        "training": None,
        "reference": "gone@4",
        "version_status": "live",
        "gate": {"reasons": []},
    }
    services.jobs.succeed(running, result)
    told = client.get(f"{JOBS}/{job['id']}").json()
    assert (told["fine_tuned_model"], told["trained_tokens"]) == ("gone@4", 0)
    # It was removed since, so there is nothing to ask for.
    assert client.get(f"{JOBS}/{job['id']}/checkpoints").json()["data"] == []


def test_a_sampled_loss_is_not_called_the_full_one(client: TestClient, services: Services) -> None:
    job = create(client)
    running = services.jobs.claim_next()
    assert running is not None
    metrics = {"loss": 2.0, "loss_vocabulary": "sampled"}
    services.jobs.progress(running, step=1, total_steps=2, metrics=metrics)
    (last,) = client.get(f"{JOBS}/{job['id']}/events?limit=1").json()["data"]
    assert (last["type"], last["message"]) == ("metrics", "step 1 of 2: sampled loss 2.000")
    assert last["data"]["loss_vocabulary"] == "sampled"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?after=ftjob-01ARZ3NDEKTSV4RRFFQ69G5FAV", 404),
        ("?after=job_1", 404),
        ("?limit=0", 400),
        ("?limit=x", 400),
        ("?metdata[k]=v", 400),
        ("?metadata=x", 400),
        ("?metadata=null&metadata[k]=v", 400),
        ("?metadata[k]=v&metadata[k]=w", 400),
        ("/x", 404),
    ],
)
def test_what_a_list_cannot_be_asked_is_refused(client: TestClient, query: str, status: int) -> None:
    answer = client.get(JOBS + query)
    assert answer.status_code in ({400, 422} if status == 400 else {status}), answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("events?after=ftevent-99", 404),
        ("events?after=99", 400),
        ("events?after=ftevent-" + "9" * 30, 400),
        ("events?order=asc", 400),
        ("checkpoints?after=ftckpt-1", 404),
    ],
)
def test_what_a_page_of_a_job_cannot_be_asked_is_refused(client: TestClient, path: str, status: int) -> None:
    answer = client.get(f"{JOBS}/{create(client)['id']}/{path}")
    assert answer.status_code in ({400, 422} if status == 400 else {status}), answer.text


def test_unknown_fields_are_named(client: TestClient) -> None:
    body = {"model": "base", "training_file": "source:small", "n_epochs": 3}
    answer = client.post(JOBS, json=body)
    assert answer.status_code in {400, 422}
    assert "unknown field 'n_epochs'" in answer.text
