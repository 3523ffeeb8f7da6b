"""The whole smoke run against a service that is up: prompts, the job's recipe, and both reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from adapter_service.measuring.evaluation import Evaluation
from adapter_service.measuring.evaluation_report import render_markdown
from adapter_service.measuring.holdout import draw_cases, split_source
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.measuring.service_client import ServiceClient
from adapter_service.measuring.smoke import SmokeReport, SmokeRow, read_prompts, run_smoke
from adapter_service.measuring.smoke_report import results, totals, training_results, write_report
from adapter_service.settings import Settings

RESULTS = Path("benchmarks/results/smoke.json")


def smoke_service(
    settings: Settings,
    console: Console,
    *,
    url: str,
    adapter: str | None,
    prompts: Path,
    output: Path,
    source: str | None = None,
    evaluation: Evaluation | None = None,
    timings: Callable[[], Sequence[Result]] = tuple,
) -> SmokeReport:
    """Ask the service at `url` the file's prompts and one of the holdout per language; write what it answered.

    `evaluation`, when there is one, goes into both reports; `timings`, asked at the end, into the rows.
    """
    name = adapter or settings.serving.default_adapter
    held_out, _ = split_source(settings, source or settings.data.source)
    with ServiceClient(url) as client:
        report = run_smoke(
            client, read_prompts(prompts), draw_cases(held_out), adapter=name, on_row=lambda row: _show(console, row)
        )
        job = client.training_job(name)
    recipe = _recipe(job)
    write_report(
        output,
        report,
        recipe=recipe,
        training_seconds=_training_seconds(job),
        sections=[render_markdown(evaluation)] if evaluation else [],
    )
    judged = evaluation.targets() if evaluation else ()
    write_results(RESULTS, [*results(report), *judged, *training_results(job), *timings()])
    console.print(f"the ten of the file: {totals(report.group('file'))} in the right language and script")
    console.print(f"ten of the holdout: {totals(report.group('holdout'))}; report in {output}")
    return report


def _show(console: Console, row: SmokeRow) -> None:
    console.print("ok" if row.verdict.ok else "no", style="green" if row.verdict.ok else "red", end=" ")
    console.print(f"{row.case.language.name:<10}", end="")
    console.print(f"{row.case.prompt}\n              {row.answer.text}", highlight=False)


def _recipe(job: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the adapter was trained with, as its job recorded it."""
    if job is None:
        return {}
    recipe = (job.get("details") or {}).get("recipe") or {}
    kept = {section: recipe[section] for section in ("lora", "training", "loss", "data") if section in recipe}
    held = {name: (job.get("details") or {}).get(name) for name in ("base", "precision")}
    return {**held, **kept, "samples": {"used": job["samples"].get("used")}, "source": job["source"]}


def _training_seconds(job: Mapping[str, Any] | None) -> float | None:
    training = ((job or {}).get("details") or {}).get("training") or {}
    seconds = training.get("seconds")
    return None if seconds is None else float(seconds)
