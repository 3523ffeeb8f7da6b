"""Errors of fine-tuning under /v1: its own ids, its own fields, and what to do next."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.test_files import send
from tests.api.test_fine_tuning import JOBS, create


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ftjob-nope"),
        ("POST", "/ftjob-nope/cancel"),
        ("POST", "/ftjob-nope/pause"),
        ("POST", "/ftjob-nope/resume"),
        ("GET", "/ftjob-nope/events"),
        ("GET", "/ftjob-nope/checkpoints"),
        ("GET", "?after=ftjob-nope"),
    ],
)
def test_an_unknown_job_is_told_by_the_id_that_was_sent(client: TestClient, method: str, path: str) -> None:
    error = error_of(client.request(method, JOBS + path), 404)
    assert error["message"] == "no fine-tuning job 'ftjob-nope'; GET /v1/fine_tuning/jobs lists what there is"


@pytest.mark.parametrize(
    ("move", "told"),
    [
        ("cancel", "only a job that is not finished can be cancelled"),
        ("pause", "only a job that waits or runs can be paused"),
        ("resume", "only a paused job can be resumed"),
    ],
)
def test_a_job_that_has_ended_is_told_by_its_id_and_what_to_do(client: TestClient, move: str, told: str) -> None:
    job = create(client)
    client.post(f"{JOBS}/{job['id']}/cancel")
    error = error_of(client.post(f"{JOBS}/{job['id']}/{move}"), 409)
    assert error["message"] == f"{job['id']} is cancelled; {told}: to train again, ask for another"


def test_a_file_in_use_is_told_with_the_jobs_own_id(client: TestClient) -> None:
    file = send(client).json()
    job = create(client, training_file=file["id"])
    error = error_of(client.delete(f"/v1/files/{file['id']}"), 409)
    assert f"{file['id']} is what {job['id']} trains on; cancel that job" in error["message"]


@pytest.mark.parametrize("training_file", ["mine.jsonl", "file-01ARZ3NDEKTSV4RRFFQ69G5FAV", "source:nowhere"])
def test_a_training_file_that_there_is_not_is_told_by_its_field(client: TestClient, training_file: str) -> None:
    answer = client.post(JOBS, json={"model": "base", "training_file": training_file})
    assert error_of(answer, 404)["param"] == "training_file"


def test_one_that_cannot_be_trained_on_is_told_by_its_field_too(client: TestClient) -> None:
    file = send(client, b"no JSON").json()
    assert file["status"] == "error"
    answer = client.post(JOBS, json={"model": "base", "training_file": file["id"]})
    assert error_of(answer, 400)["param"] == "training_file"
