"""What a smoke run found, as `smoke_results.md` for people and as rows for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter_service.durable import write_whole
from adapter_service.measuring.markdown import table
from adapter_service.measuring.provenance import Result, commit, machine, versions
from adapter_service.measuring.smoke import Group, SmokeReport, SmokeRow

_TITLES: dict[Group, str] = {
    "file": "The ten of the file",
    "holdout": "Drawn from the stream's holdout",
}


def totals(rows: Sequence[SmokeRow]) -> str:
    """`10 of 10` for the adapter."""
    return f"{sum(row.verdict.ok for row in rows)} of {len(rows)}"


def base_totals(rows: Sequence[SmokeRow]) -> str:
    return f"{sum(row.base_verdict.ok for row in rows)} of {len(rows)}"


def write_report(
    path: Path,
    report: SmokeReport,
    *,
    recipe: Mapping[str, Any],
    training_seconds: float | None,
    checkout: Path | None = None,
    sections: Sequence[str] = (),
) -> None:
    """Write the report in one piece: a reader finds the previous one or this one, never a part.

    `sections` are further parts, as Markdown, for its end.
    """
    facts: dict[str, Any] = {
        "Result": f"the file's prompts {totals(report.group('file'))}, "
        f"the holdout's {totals(report.group('holdout'))} in the right language and script, "
        "no echo, not degenerate",
        "Written at": datetime.now(UTC).isoformat(timespec="seconds"),
        "Commit": commit(checkout or Path.cwd()),
        "Adapter": f"{report.adapter} ({_versions_served(report)})",
        "Training time": "not told" if training_seconds is None else duration(training_seconds),
        "Restarted between prompts": {True: "yes", False: "no", None: "not told"}[report.restarted],
        "Hardware": ", ".join(f"{key} {value}" for key, value in machine().items()),
        "Versions": ", ".join(f"{key} {value}" for key, value in versions().items()),
        "Decoding": "greedy, one prompt after another, adapter and base over HTTP from the same process",
    }
    parts = [
        "# Smoke results\n",
        "Written by `adapter-service smoke`; every figure here was measured by it.\n",
        table(("", ""), facts.items()),
        "## Recipe\n",
        table(("parameter", "value"), [(name, str(value)) for name, value in sorted(flat(recipe).items())]),
        *(section for group in _TITLES if report.group(group) for section in _sections(report, group)),
        *sections,
    ]
    write_whole(path, "\n".join(parts))


def results(report: SmokeReport) -> list[Result]:
    """The rows of `benchmarks/results/smoke.json`; only the file's prompts have a target, all of them."""
    rows = []
    for group in _TITLES:
        asked = report.group(group)
        if not asked:
            continue
        rows += [_passed(group, asked), _mean_chrf(group, asked), *_speed(group, asked)]
    return rows


def training_results(job: Mapping[str, Any] | None) -> list[Result]:
    """What training took and what the gate measured, as the job recorded them; nothing of a job that did neither."""
    told = job or {}
    training = (told.get("details") or {}).get("training")
    metrics = (told.get("gate") or {}).get("metrics") or {}
    rows = []
    if training:
        rows.append(Result(f"training on {training['samples']} samples", round(training["seconds"], 1), "s"))
    loss, before = metrics.get("candidate_loss"), metrics.get("incumbent_loss")
    if loss is not None and before is not None:
        rows.append(
            Result(
                measure=f"loss on {metrics['holdout_samples']} held-out samples",
                figure=round(loss, 4),
                unit="nats/token",
                peer="what was live before, or the base",
                peer_figure=round(before, 4),
                ratio=round(loss / before, 4),
            )
        )
    return rows


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"lora": {"r": 16}}` as `{"lora.r": 16}`."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def duration(seconds: float) -> str:
    """`13 min 5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _versions_served(report: SmokeReport) -> str:
    served = sorted({row.answer.version or "no version" for row in report.rows})
    return f"version {', '.join(served)}" if served else "nothing was asked"


def _sections(report: SmokeReport, group: Group) -> list[str]:
    rows = report.group(group)
    heading = f"## {_TITLES[group]}: {totals(rows)}, the base alone {base_totals(rows)}\n"
    answers = table(
        ("language", "prompt", "answer", "base's answer", "reference"),
        [(row.case.language.name, row.case.prompt, row.answer.text, row.base.text, row.case.reference) for row in rows],
    )
    figures = table(
        (
            "language",
            "script share",
            "detected",
            "lang_ok",
            "chrF",
            "base's chrF",
            "latency ms",
            "tokens/s",
            "verdict",
        ),
        [_figures(row) for row in rows],
    )
    return [heading, answers, figures]


def _figures(row: SmokeRow) -> tuple[object, ...]:
    return (
        row.answer.lang_tag or row.case.language.lang_tag,
        f"{row.verdict.script_share:.2f}",
        row.verdict.detected,
        row.answer.lang_ok,
        row.chrf,
        row.base_chrf,
        round(row.answer.latency_ms),
        row.answer.tokens_per_second,
        "OK" if row.verdict.ok else "; ".join(row.verdict.reasons),
    )


def _passed(group: Group, rows: Sequence[SmokeRow]) -> Result:
    figure = sum(row.verdict.ok for row in rows)
    return Result(
        measure=f"{_TITLES[group]}: right language and script, no echo, not degenerate",
        figure=figure,
        unit=f"of {len(rows)}",
        peer="the base alone",
        peer_figure=sum(row.base_verdict.ok for row in rows),
        target=len(rows) if group == "file" else None,
        met=figure == len(rows) if group == "file" else None,
    )


def _mean_chrf(group: Group, rows: Sequence[SmokeRow]) -> Result:
    figure = statistics.mean(row.chrf for row in rows)
    base = statistics.mean(row.base_chrf for row in rows)
    return Result(
        measure=f"{_TITLES[group]}: mean chrF against the reference",
        figure=round(figure, 2),
        unit="chrF",
        peer="the base alone",
        peer_figure=round(base, 2),
        ratio=round(figure / base, 2) if base else None,
    )


def _speed(group: Group, rows: Sequence[SmokeRow]) -> list[Result]:
    latency = statistics.median(row.answer.latency_ms for row in rows)
    speed = statistics.median(row.answer.tokens_per_second for row in rows)
    base_speed = statistics.median(row.base.tokens_per_second for row in rows)
    return [
        Result(f"{_TITLES[group]}: median latency", round(latency, 1), "ms"),
        Result(
            measure=f"{_TITLES[group]}: median speed with the adapter",
            figure=round(speed, 2),
            unit="tokens/s",
            peer="the base alone",
            peer_figure=round(base_speed, 2),
            ratio=round(speed / base_speed, 2) if base_speed else None,
        ),
    ]
