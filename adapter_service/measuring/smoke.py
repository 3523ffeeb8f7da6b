"""The smoke run: a running service is asked everyday prompts, the base beside the adapter, and judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests

from adapter_service.adapter_names import BASE
from adapter_service.errors import InvalidInputError, ServiceAnswerError
from adapter_service.languages import Language, find
from adapter_service.languages.answers import Verdict, chrf, judge

Group = Literal["file", "holdout"]


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with the language it wants and one good answer; `group` says where it comes from."""

    prompt: str
    language: Language
    reference: str
    group: Group = "file"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered; `lang_ok` is its own opinion."""

    text: str
    lang_tag: str | None
    lang_ok: bool | None
    version: str | None
    completion_tokens: int
    finish_reason: str | None
    latency_ms: float

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.latency_ms * 1000 if self.latency_ms else 0.0


@dataclass(frozen=True, slots=True)
class SmokeRow:
    """One case, answered by the adapter and by the base alone, and what is to be said of both."""

    case: Case
    answer: Answer
    base: Answer
    verdict: Verdict
    base_verdict: Verdict
    chrf: float
    base_chrf: float


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """`restarted` is None where the service does not say since when it runs."""

    adapter: str
    base_url: str
    rows: tuple[SmokeRow, ...]
    restarted: bool | None

    def group(self, group: Group) -> tuple[SmokeRow, ...]:
        return tuple(row for row in self.rows if row.case.group == group)


class ServiceClient:
    """Asks one running service, one request at a time."""

    def __init__(self, base_url: str, *, timeout_seconds: float = 300.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout_seconds
        self._session = requests.Session()
        # A proxy of the environment has no business between two processes of one machine.
        self._session.trust_env = False

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def generate(self, case: Case, *, adapter: str, max_new_tokens: int, trace_id: str) -> Answer:
        """Greedy, so that the same service gives the same answer again.

        Raises:
            ServiceAnswerError: the service cannot be reached, or does not answer the prompt.
        """
        body = self.ask(
            "POST",
            "/generate-lite",
            {
                "prompt": case.prompt,
                "lang": case.language.tag,
                "adapter": adapter,
                "max_new_tokens": max_new_tokens,
                "do_sample": False,
                "trace_id": trace_id,
            },
        )
        try:
            return _answer(body)
        except (KeyError, TypeError) as error:
            raise ServiceAnswerError(
                f"the answer of {self.base_url}/generate-lite has no usable {error}; "
                "is another service or version listening there?"
            ) from error

    def running_since(self) -> str | None:
        """When the service started, in its own words; None where it does not say."""
        started = self.ask("GET", "/health").get("started_at")
        return None if started is None else str(started)

    def training_job(self, adapter: str) -> Mapping[str, Any] | None:
        """The status of the job that made the adapter's live version; None where there is none to ask about."""
        for listed in self.ask("GET", "/adapter/list")["adapters"]:
            for version in listed["versions"]:
                if listed["name"] == adapter and version["status"] == "live" and version["job_id"]:
                    return self.ask("GET", f"/adapter/status/{version['job_id']}")
        return None

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One request, its JSON answer.

        Raises:
            ServiceAnswerError: no connection, or a status that is not 2xx; with the service's reason.
        """
        try:
            response = self._session.request(method, self.base_url + path, json=body, timeout=self._timeout)
            content = response.json()
        except requests.RequestException as error:
            raise ServiceAnswerError(
                f"no usable answer from {self.base_url}{path}: {error}; "
                "start the service with 'adapter-service serve', or give the address of the one that runs"
            ) from error
        if not response.ok or not isinstance(content, dict):
            detail = content.get("detail", content) if isinstance(content, dict) else content
            raise ServiceAnswerError(
                f"{method} {self.base_url}{path} answered {response.status_code}: {detail}; "
                "the service's log has more under the same trace id"
            )
        return content


def _answer(body: Mapping[str, Any]) -> Answer:
    return Answer(
        text=body["text"],
        lang_tag=body.get("lang_tag"),
        lang_ok=body.get("lang_ok"),
        version=None if body.get("version") is None else str(body["version"]),
        completion_tokens=int(body["usage"]["completion_tokens"]),
        finish_reason=body.get("finish_reason"),
        latency_ms=float(body["latency_ms"]),
    )


def read_prompts(path: Path) -> list[Case]:
    """The cases of a prompts file: a list, or an object with a list `prompts`.

    Each has `prompt`, `reference` and `language_code` (or `language`, a tag or a name).

    Raises:
        InvalidInputError: the file is not like that.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        records = document["prompts"] if isinstance(document, dict) else document
        return [case_from(record) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as prompts ({type(error).__name__}: {error}); "
            "wanted are records with 'prompt', 'language_code' and 'reference'"
        ) from error


def case_from(record: Mapping[str, Any], group: Group = "file") -> Case:
    language = record["language_code"] if "language_code" in record else record["language"]
    return Case(record["prompt"], find(language), record["reference"], group)


def run_smoke(
    client: ServiceClient,
    prompts: Iterable[Case],
    drawn: Iterable[Case],
    *,
    adapter: str,
    max_new_tokens: int = 64,
    on_row: Callable[[SmokeRow], None] = lambda _: None,
) -> SmokeReport:
    """Ask every case in turn, with nothing restarted in between; `on_row` hears of each as it is done."""
    cases = [*prompts, *drawn]
    since = client.running_since()
    rows = []
    for row in _rows(client, cases, adapter, max_new_tokens):
        rows.append(row)
        on_row(row)
    restarted = None if since is None else client.running_since() != since
    return SmokeReport(adapter, client.base_url, tuple(rows), restarted)


def _rows(client: ServiceClient, cases: Sequence[Case], adapter: str, max_new_tokens: int) -> Iterator[SmokeRow]:
    for number, case in enumerate(cases, 1):
        answer, base = (
            client.generate(case, adapter=name, max_new_tokens=max_new_tokens, trace_id=f"smoke-{number}-{name}")
            for name in (adapter, BASE)
        )
        yield SmokeRow(
            case=case,
            answer=answer,
            base=base,
            verdict=judge(answer.text, prompt=case.prompt, language=case.language),
            base_verdict=judge(base.text, prompt=case.prompt, language=case.language),
            chrf=chrf(answer.text, case.reference),
            base_chrf=chrf(base.text, case.reference),
        )
