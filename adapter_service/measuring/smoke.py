"""The smoke run: a running service is asked everyday prompts, the base beside the adapter, and judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapter_service.adapter_names import BASE
from adapter_service.errors import InvalidInputError
from adapter_service.languages import Language, find
from adapter_service.languages.answers import Verdict, chrf, judge
from adapter_service.measuring.service_client import Answer, ServiceClient

Group = Literal["file", "holdout"]


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt with the language it wants and one good answer; `group` says where it comes from."""

    prompt: str
    language: Language
    reference: str
    group: Group = "file"


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
    texts = (record["prompt"], language, record["reference"])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("one of them is no text")
    prompt, language, reference = texts
    return Case(prompt, find(language), reference, group)


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
            client.generate(
                case.prompt,
                lang=case.language.tag,
                adapter=name,
                max_new_tokens=max_new_tokens,
                trace_id=f"smoke-{number}-{name}",
            )
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
