"""Files that clients send, and the jobs that train on them, while the service dies or its disk is full."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.chaos.service import Service
from tests.jobs.bench import toy_records
from tests.waiting import eventually

LINES = "".join(json.dumps(record) + "\n" for record in toy_records()).encode()


def send(service: Service, content: bytes = LINES) -> requests.Response:
    files = {"file": ("toys.jsonl", content)}
    return requests.post(f"{service.address}/v1/files", files=files, data={"purpose": "fine-tune"}, timeout=60)


def listed(service: Service) -> list[Any]:
    found: list[Any] = service.get("/v1/files")["data"]
    return found


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_of_a_file_that_was_arriving_when_the_service_died_nothing_is_left(running: Service) -> None:
    service = running
    before, folder = send(service).json(), service.state_dir / "files"
    known = names_in(folder)
    url = urlsplit(service.address)
    with socket.create_connection((url.hostname, url.port)) as half:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="half.jsonl"\r\n\r\n'
        length = b"Content-Length: 50000000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        half.sendall(b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length + head + LINES * 1000)
        arriving = eventually(lambda: names_in(folder) - known, "the file arrives")
        eventually(lambda: sum((folder / name).stat().st_size for name in arriving), "its bytes are on the disk")
        service.kill(signal.SIGKILL)
    service.start()
    assert before["id"] in [file["id"] for file in listed(service)]
    assert names_in(folder) == known


def test_a_job_on_an_uploaded_file_outlives_the_service_and_keeps_the_file(running: Service) -> None:
    service = running
    file_id = send(service).json()["id"]
    with service.slow_steps():
        body = {"model": "base", "training_file": file_id, "suffix": "outlives"}
        job = service.post("/v1/fine_tuning/jobs", body).json()
        path = f"/v1/fine_tuning/jobs/{job['id']}"
        eventually(lambda: service.get(path)["status"] == "running", "the job runs")
        service.kill(signal.SIGKILL)
    service.start()
    refused = requests.delete(f"{service.address}/v1/files/{file_id}", timeout=60)
    assert refused.status_code == 409
    told = service.ended(job["id"].replace("ftjob-", "job_"))
    assert (told["status"], told["attempt"], told["source"]) == ("succeeded", 2, file_id)
    assert service.get(path)["fine_tuned_model"] == "outlives@1"
    assert requests.delete(f"{service.address}/v1/files/{file_id}", timeout=60).ok


def test_a_full_disk_refuses_a_file_and_keeps_nothing_of_it(running: Service) -> None:
    service = running
    before = send(service).json()["id"]
    known = names_in(service.state_dir / "files")
    with service.full_disk():
        assert send(service).status_code in {503, 507}
    assert names_in(service.state_dir / "files") == known
    assert listed(service)[0]["id"] == before
    assert send(service).json()["status"] == "processed"
