"""The configured sources, and a look into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from adapter_service.api import preview
from adapter_service.api.services import Services
from adapter_service.connectors.registry import open_source
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SourceError
from adapter_service.settings import SourceEntry


def test_sources_are_listed_without_their_secrets(client: TestClient) -> None:
    response = client.get("/sources")
    other = next(source for source in response.json()["sources"] if source["name"] == "other")
    assert other["options"] == {"url": "https://***@data.example/x?token=***"}
    assert "geheim" not in response.text


def test_the_default_source_is_marked(client: TestClient) -> None:
    sources = client.get("/sources").json()["sources"]
    assert [source["name"] for source in sources if source["default"]] == ["small"]


def test_a_preview_has_the_first_samples_and_what_was_skipped(client: TestClient) -> None:
    answer = client.get("/sources/small/preview", params={"n": 2}).json()
    assert [sample["messages"][-1]["content"] for sample in answer["samples"]] == ["सुप्रभात", "धन्यवाद"]
    assert answer["samples"][0]["language"] == "hi"
    whole = client.get("/sources/small/preview").json()
    assert whole["skipped"] == {"no field 'target'": 1}


def test_a_preview_ends_although_nothing_gets_through(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "MAX_SKIPPED", 1)
    answer = preview.preview(services.settings.sources["small"], 50)
    assert (len(answer.samples), sum(answer.skipped.values())) == (3, 1)


@pytest.mark.parametrize("n", [0, 51, "x"])
def test_a_preview_has_bounds(client: TestClient, n: object) -> None:
    problem = client.get("/sources/small/preview", params={"n": str(n)}).json()
    assert (problem["status"], problem["parameter"]) == (422, "n")


def test_an_unreachable_source_is_502_with_the_reason(client: TestClient) -> None:
    response = client.get("/sources/gone/preview")
    assert (response.status_code, response.json()["code"]) == (502, "source_unreachable")


@pytest.mark.parametrize(
    ("content", "code"),
    [("", "empty_source"), ("<html>\n<body>Please log in</body>\n</html>\n", "source_format"),
     ('{"text": "good", "language": "ta"}\n', "empty_source")],
)  # fmt: skip
def test_a_source_that_gives_nothing_has_the_error_that_a_job_has(tmp_path: Path, content: str, code: str) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    options = {"path": str(tmp_path / "a.jsonl"), "languages": ["hi"]}
    entry = SourceEntry(name="nothing", kind="local", options=options)
    with pytest.raises(SourceError) as in_preview:
        preview.preview(entry, 5)
    with pytest.raises(SourceError) as in_job:
        list(tallied(open_source(entry), Tally("nothing", max_skipped_fraction=0.1)))
    assert in_preview.value.code == in_job.value.code == code
