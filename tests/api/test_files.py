"""Forms that arrive at /v1/files in other ways than a good client sends them, and the limits of what is taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapter_service.api import training_requests
from adapter_service.api.services import Services
from adapter_service.api.training_requests import check_possible
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.settings import SecuritySettings, StorageSettings
from tests.api.conftest import MakeServices, client_of

LINES = b'{"prompt": "a", "completion": "b"}\n'
REFUSED = (400, 422)


def send(client: TestClient, content: bytes = LINES, **fields: Any) -> Any:
    return client.post("/v1/files", files={"file": ("mine.jsonl", content)}, data={"purpose": "fine-tune", **fields})


def form(*parts: str, boundary: str = "x") -> dict[str, Any]:
    """A request whose body has these parts, each a header, an empty line and the content."""
    body = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n"
    return {"content": body.encode(), "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


FILE = 'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}'
PURPOSE = 'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune'


@pytest.fixture
def folder(services: Services) -> Path:
    return services.settings.storage.state_dir / "files"


def test_a_form_in_many_small_pieces_is_the_same_file(client: TestClient) -> None:
    whole = form(FILE.format("\r\n--x\r\n-" * 5), PURPOSE, boundary="xyz")

    def pieces() -> Iterator[bytes]:
        yield from (bytes([byte]) for byte in whole["content"])

    answer = client.post("/v1/files", content=pieces(), headers=whole["headers"])
    assert answer.status_code == 200, answer.text
    assert client.get(f"/v1/files/{answer.json()['id']}/content").content == b"\r\n--x\r\n-" * 5


def test_a_large_file_arrives_byte_for_byte(client: TestClient, folder: Path) -> None:
    content = LINES * 100_000  # 3.5 MB: more than a body in memory may have, and several batches
    file = send(client, content).json()
    assert (file["status"], file["bytes"]) == ("processed", len(content))
    assert (folder / f"{file['id']}.jsonl").read_bytes() == content
    assert client.get(f"/v1/files/{file['id']}/content").content == content


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"json": {"file": "x"}}, "send multipart/form-data"),
        ({}, "send multipart/form-data"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, "send multipart/form-data"),
        ({"content": b"", "headers": {"Content-Type": f"multipart/form-data; boundary={'x' * 300}"}}, "multipart"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "cannot be read"),
        (form(PURPOSE), "'file' is missing"),
        (form(FILE), "'purpose' is missing"),
        (form(FILE, PURPOSE.replace("fine-tune", "assistants")), "'purpose' is 'assistants'"),
        (form(FILE, FILE, PURPOSE), "'file' is in the form twice"),
        (form(FILE, PURPOSE, PURPOSE), "'purpose' is in the form twice"),
        (form(FILE, PURPOSE, 'Content-Disposition: form-data; name="purpos"\r\n\r\nx'), "did you mean 'purpose'"),
        (
            form(FILE, PURPOSE, 'Content-Disposition: form-data; name="expires_after[seconds]"\r\n\r\n1'),
            "unknown field",
        ),
        (form(FILE.replace('; filename="a.jsonl"', ""), PURPOSE), "'file' has to be a file"),
        (form(FILE, PURPOSE.replace('"purpose"', '"purpose"; filename="p"')), "'purpose' has to be a text"),
        (form(FILE, PURPOSE + "x" * 2000), "has over 1024 bytes"),
        (form(FILE.replace("a.jsonl", ""), PURPOSE), "the file's name has 0 characters"),
        (form(FILE.replace("a.jsonl", "a" * 256), PURPOSE), "the file's name has 256 characters"),
        (form("\r\nx"), "unknown field ''"),
    ],
)
def test_a_form_that_is_none_or_has_other_fields_is_refused_and_leaves_nothing(
    client: TestClient, folder: Path, request_: dict[str, Any], says: str
) -> None:
    answer = client.post("/v1/files", **request_)
    assert answer.status_code in REFUSED, answer.text
    assert says in answer.json().get("detail", answer.text)
    assert list(folder.iterdir()) == []


def test_a_form_that_breaks_off_is_refused_and_leaves_nothing(client: TestClient, folder: Path) -> None:
    whole = form(FILE, PURPOSE)
    answer = client.post("/v1/files", content=whole["content"][:-6], headers=whole["headers"])
    assert answer.status_code in REFUSED
    assert "ends before its last boundary" in answer.text
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_what_is_over_its_own_limit_is_refused_while_it_comes(make_services: MakeServices, is_announced: bool) -> None:
    security = SecuritySettings(max_body_bytes=1024, max_upload_bytes=4096)
    services = make_services(security=security)
    client = client_of(services)
    assert send(client, LINES * 50).status_code == 200  # more than other bodies may have
    large = form(FILE.format("{}\n" * 3000), PURPOSE)
    body = large["content"] if is_announced else iter([large["content"][:3000], large["content"][3000:]])
    refused = client.post("/v1/files", content=body, headers=large["headers"])
    assert refused.status_code == 413
    assert "over 4096 bytes (security.max_upload_bytes)" in refused.text
    assert len(list((services.settings.storage.state_dir / "files").iterdir())) == 1
    other = client.post("/v1/fine_tuning/jobs", content=b" " * 2000)
    assert (other.status_code, "over 1024 bytes (security.max_body_bytes)" in other.text) == (413, True)


def test_a_full_disk_takes_no_file(make_services: MakeServices, tmp_path: Path) -> None:
    storage = StorageSettings(state_dir=tmp_path / "state", min_free_mb=1_048_576)
    answer = send(client_of(make_services(storage=storage)))
    assert answer.status_code == 507
    assert "no file is taken" in answer.text


def test_no_name_that_a_client_sends_leads_anywhere(client: TestClient, folder: Path) -> None:
    file = client.post("/v1/files", files={"file": ("../../etc/passwd", LINES)}, data={"purpose": "fine-tune"}).json()
    assert file["filename"] == "../../etc/passwd"
    assert [path.name for path in folder.iterdir()] == [f"{file['id']}.jsonl"]
    disposition = client.get(f"/v1/files/{file['id']}/content").headers["content-disposition"]
    assert disposition == "attachment; filename*=utf-8''..%2F..%2Fetc%2Fpasswd"
    assert client.get("/v1/files/..%2F..%2Fservice.db").status_code == 404


def test_a_faulty_file_is_kept_and_says_which_lines(client: TestClient) -> None:
    file = send(client, LINES + b'{"prompt": "a"}\n').json()
    assert (file["status"], file["status_details"]) == (
        "error",
        "1 of 2 lines are faulty: line 2: no field 'completion'",
    )
    job = {"model": "base", "training_file": file["id"]}
    for path, body in (("/v1/fine_tuning/jobs", job), ("/adapter/train-lite", {"source": file["id"]})):
        answer = client.post(path, json=body)
        assert answer.status_code in REFUSED
        assert "line 2: no field 'completion'; send it again, mended" in answer.text


def test_the_other_training_route_takes_a_file_as_its_source_too(client: TestClient) -> None:
    file_id = send(client).json()["id"]
    accepted = client.post("/adapter/train-lite", json={"source": file_id})
    assert accepted.status_code == 202, accepted.text
    job = client.get(f"/v1/fine_tuning/jobs/{accepted.json()['job_id'].replace('job_', 'ftjob-')}").json()
    assert (job["training_file"], job["metadata"], job["model"]) == (file_id, None, "base")
    in_use = client.delete(f"/v1/files/{file_id}")
    assert (in_use.status_code, job["id"] in in_use.text) == (409, True)


def test_no_job_begins_on_a_file_that_somebody_deletes_meanwhile(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = send(client).json()["id"]

    def checked_and_then_deleted(request: TrainRequest, of: Services) -> None:
        check_possible(request, of)
        of.files.delete(file_id)

    monkeypatch.setattr(training_requests, "check_possible", checked_and_then_deleted)
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "base", "training_file": file_id})
    assert (answer.status_code, f"no file '{file_id}'" in answer.text) == (404, True)
    assert services.jobs.list() == ()
