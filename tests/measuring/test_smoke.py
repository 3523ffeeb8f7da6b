"""The smoke run, against a real server on loopback that speaks the one route it asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from adapter_service.errors import InvalidInputError, ServiceAnswerError
from adapter_service.languages import find
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.measuring.smoke import Case, SmokeReport, read_prompts, run_smoke
from adapter_service.measuring.smoke_report import results, totals, training_results, write_report
from tests.loopback import Quiet, started

ANSWERS = {
    "Translate to Hindi: The weather is very good today.": "आज मौसम बहुत अच्छा है।",
    "Translate to Tamil: I am | going home.": "நான் வீட்டிற்குச் செல்கிறேன் | *.",
    "Translate to Marathi: The weather is very good today.": "आज मौसम बहुत अच्छा है।",
}


class Handler(Quiet, BaseHTTPRequestHandler):
    """Knows three translations; the base gives the prompt back."""

    def do_GET(self) -> None:
        self._send(200, {"status": "ok", "started_at": "2026-01-01T00:00:00Z"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["adapter"] not in {"multilingual", "base"}:
            self._send(404, {"code": "unknown_adapter", "detail": "unknown adapter 'absent'"})
            return
        text = asked["prompt"] if asked["adapter"] == "base" else ANSWERS[asked["prompt"]]
        self._send(200, self._answer(asked, text))

    def _answer(self, asked: dict[str, Any], text: str) -> dict[str, Any]:
        return {
            "text": text,
            "lang": asked["lang"],
            "lang_tag": find(asked["lang"]).lang_tag,
            "lang_ok": True,
            "adapter": asked["adapter"],
            "version": None if asked["adapter"] == "base" else "v1",
            "usage": {"prompt_tokens": 9, "completion_tokens": 10},
            "finish_reason": "stop",
            "latency_ms": 500.0,
            "trace_id": asked["trace_id"],
        }

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def service_url() -> Iterator[str]:
    server, url = started(Handler, None)
    yield f"{url}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(service_url: str) -> Iterator[ServiceClient]:
    with ServiceClient(service_url, timeout_seconds=10) as client:
        yield client


def case(prompt: str, tag: str, **kwargs: Any) -> Case:
    return Case(prompt, find(tag), ANSWERS[prompt], **kwargs)


HINDI, TAMIL, MARATHI = (case(prompt, tag) for prompt, tag in zip(ANSWERS, ("hi", "ta", "mr"), strict=True))


@pytest.fixture
def report(client: ServiceClient) -> SmokeReport:
    drawn = case(MARATHI.prompt, "mr", group="holdout")
    return run_smoke(client, [HINDI, TAMIL], [drawn], adapter="multilingual")


def test_right_answers_pass_and_the_base_which_echoes_does_not(report: SmokeReport) -> None:
    asked = report.group("file")
    assert totals(asked) == "2 of 2"
    assert all(row.base_verdict.echo for row in asked)
    assert [row.chrf for row in asked] == [pytest.approx(100), pytest.approx(100)]


def test_hindi_for_marathi_does_not_pass_whatever_the_service_thinks_of_it(report: SmokeReport) -> None:
    (row,) = report.group("holdout")
    assert row.answer.lang_ok
    assert row.verdict.reasons == ("the language looks like hi, mr is wanted",)


def test_speed_comes_from_the_services_own_figures(report: SmokeReport) -> None:
    assert report.rows[0].answer.tokens_per_second == 20.0


def test_a_service_that_runs_since_the_same_moment_was_not_restarted(report: SmokeReport) -> None:
    assert report.restarted is False


def test_each_row_is_told_as_soon_as_it_is_done(client: ServiceClient) -> None:
    heard: list[str] = []
    run_smoke(client, [HINDI], [], adapter="multilingual", on_row=lambda row: heard.append(row.case.prompt))
    assert heard == [HINDI.prompt]


def test_an_unknown_adapter_ends_the_run_with_the_services_reason(client: ServiceClient) -> None:
    with pytest.raises(ServiceAnswerError, match="answered 404: unknown adapter 'absent'"):
        run_smoke(client, [HINDI], [], adapter="absent")


def test_a_service_that_does_not_run_is_named_with_the_next_step() -> None:
    client = ServiceClient("http://127.0.0.1:1")
    with pytest.raises(ServiceAnswerError, match="start the service with 'adapter-service serve'"):
        run_smoke(client, [HINDI], [], adapter="multilingual")


class Broken(Handler):
    """Closes the connection of the first question without a word."""

    state: list[str]

    def do_GET(self) -> None:
        self.state.append(self.path)
        if len(self.state) == 1:
            self.close_connection = True
            return
        super().do_GET()


def test_a_connection_that_is_gone_is_made_anew() -> None:
    asked: list[str] = []
    server, url = started(Broken, asked)
    with ServiceClient(url) as client:
        assert client.running_since() == "2026-01-01T00:00:00Z"
    server.shutdown()
    server.server_close()
    assert len(asked) == 2


def test_the_report_has_recipe_facts_and_every_answer_escaped(report: SmokeReport, tmp_path: Path) -> None:
    path = tmp_path / "smoke_results.md"
    write_report(path, report, recipe={"lora": {"r": 16}}, training_seconds=785, checkout=tmp_path)
    text = path.read_text(encoding="utf-8")
    assert r"| lora.r | 16 |" in text
    assert "| Training time | 13 min 5 s |" in text
    assert "| Commit | unknown |" in text
    assert "## The ten of the file: 2 of 2, the base alone 0 of 2" in text
    assert r"நான் வீட்டிற்குச் செல்கிறேன் \| \*." in text


def test_the_report_replaces_the_previous_one_and_leaves_nothing_beside_it(report: SmokeReport, tmp_path: Path) -> None:
    path = tmp_path / "smoke_results.md"
    for seconds in (1.0, 2.0):
        write_report(path, report, recipe={}, training_seconds=seconds, checkout=tmp_path)
    assert "| Training time | 2 s |" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_files_prompts_have_a_target(report: SmokeReport) -> None:
    rows = results(report)
    assert [(row.figure, row.target, row.met) for row in rows if row.target is not None] == [(2, 2, True)]
    assert next(row.figure for row in rows if row.measure.startswith("Drawn")) == 0


def test_what_training_took_and_gained_are_rows_as_far_as_the_job_knows_them() -> None:
    gate = {"metrics": {"candidate_loss": 1.5, "incumbent_loss": 6.0, "holdout_samples": 200}}
    seconds, loss = training_results({"details": {"training": {"samples": 280, "seconds": 30.14}}, "gate": gate})
    assert (seconds.measure, seconds.figure) == ("training on 280 samples", 30.1)
    assert (loss.measure, loss.figure) == ("loss on 200 held-out samples", 1.5)
    assert (loss.peer_figure, loss.ratio) == (6.0, 0.25)
    assert training_results(None) == []
    not_judged = {"details": {"training": None}, "gate": {"metrics": {"holdout_samples": 0}}}
    assert training_results(not_judged) == []


def test_prompts_are_read_from_a_list_or_from_an_object_with_one(tmp_path: Path) -> None:
    record = {"prompt": HINDI.prompt, "language_code": "hi", "reference": HINDI.reference}
    path = tmp_path / "prompts.json"
    for document in ([record], {"description": "everyday", "prompts": [record]}):
        path.write_text(json.dumps(document), encoding="utf-8")
        assert read_prompts(path) == [HINDI]


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"prompt": "x"}]', "[1]", '[{"prompt": "x", "language": 5, "reference": "y"}]']
)
def test_a_prompts_file_of_another_shape_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInputError, match="wanted are records with 'prompt'"):
        read_prompts(path)
