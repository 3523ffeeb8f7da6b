"""The README's generated tables, each between `<!-- generated: name -->` and `<!-- end -->`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from adapter_service.connectors.registry import KINDS
from adapter_service.documentation import ROOT
from adapter_service.settings import Settings, StorageSettings
from adapter_service.settings.sections import SECTIONS

_COMPARED_COLUMNS = ("", "measure", "ours", "beside", "ratio", "target", "met")
_MET = {True: "yes", False: "**no**", None: ""}
_BLOCK = re.compile(r"(<!-- generated: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(text: str) -> str:
    """`text` with every generated block made anew.

    Raises:
        KeyError: a block whose name is not known here.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _settings() -> str:
    comments = _comments((ROOT / "adapter_config.yaml").read_text())
    rows = [
        (f"`{section}.{key}`", f"`{_shown(field.default)}`", comments.get(f"{section}.{key}", ""))
        for section, model in SECTIONS.items()
        for key, field in model.model_fields.items()
    ]
    return _table(("key", "default", "what it is"), rows)


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Path) else json.dumps(value)


def _comments(yaml_text: str) -> dict[str, str]:
    """The comment above each `section.key`, its lines joined."""
    found: dict[str, str] = {}
    section, lines = "", []
    for line in yaml_text.splitlines():
        if match := re.match(r"\s*# ?(.*)", line):
            lines.append(match[1])
        elif match := re.match(r"(\w+):\s*$", line):
            section, lines = match[1], []
        else:
            if match := re.match(r"  (\w+):", line):
                found[f"{section}.{match[1]}"] = " ".join(lines)
            lines = []
    return found


def _routes() -> str:
    return _table(("route", "what it does"), _operations(api_document()))


def api_document() -> dict[str, Any]:
    """The OpenAPI document of a service with the settings' defaults."""
    from adapter_service.api import create_app

    with tempfile.TemporaryDirectory() as folder:
        return create_app(Settings(storage=StorageSettings(state_dir=Path(folder)))).openapi()


def _operations(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"`{method.upper()} {path}`", operation["description"].split("\n\n")[0].replace("\n", " ")


def _connectors() -> str:
    return _table(("kind", "what it reads"), [(f"`{kind}`", text) for kind, text in KINDS.items()])


def _measured(name: str) -> str:
    """Every row of a results file, with where it was measured."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.is_file():
        return "Nothing was measured yet.\n"
    results = json.loads(path.read_text())
    rows = [
        (row["measure"], _figure(row["figure"]), row["unit"], row["peer"] or "", _figure(row["peer_figure"]),
         _figure(row["target"]), _MET[row["met"]])
        for row in results["rows"]
    ]  # fmt: skip
    shown = _table(("measure", "figure", "unit", "peer", "its figure", "target", "met"), rows)
    return f"{shown}\n{_place(results)}\n"


def _several(pattern: str, *, plotted: str = "") -> str:
    """What the benchmarks of `pattern` hold against a target and what stands by itself, plots, and where each is from.

    What is compared without a target is in the results files alone.
    """
    folder = ROOT / "benchmarks" / "results"
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob(f"{pattern}.json"))}
    if not found:
        return "Nothing was measured yet.\n"
    rows = [row for results in found.values() for row in results["rows"]]
    kept = [row for row in rows if row["target"] is not None or row["peer"] is None]
    plots = "".join(
        f"![{path.stem}: {plotted}](benchmarks/results/{path.name})\n\n"
        for path in sorted(folder.glob(f"{pattern}.png"))
    )
    return f"{_table(_COMPARED_COLUMNS, _grouped(kept))}\n{plots}" + "\n\n".join(_places(found)) + "\n"


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """What of a measure's name is before its colon once, above all of it; and the peers of a measure together."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        group, _, measure = row["measure"].rpartition(": ")
        groups.setdefault(group, {}).setdefault(measure, []).append(row)
    for group, measures in groups.items():
        heading = f"**{group}**" if group else ""
        for measure, beside in measures.items():
            for row in beside:
                yield (heading, measure, *_compared(row))
                heading = ""


def _compared(row: dict[str, Any]) -> tuple[str, ...]:
    """Figure, peer, ratio, target and whether it is met; the target is the ratio's, where there is one."""
    unit = row["unit"].partition(",")[0]  # what a figure is the median of is in the file
    peer = "" if row["peer"] is None else f"{_figure(row['peer_figure'])}, {row['peer']}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
    return f"{_figure(row['figure'])} {unit}", peer, ratio, _wanted(row), _MET[row["met"]]


def _wanted(row: dict[str, Any]) -> str:
    """The target, with what it is: that it is met or missed tells on which side of it a figure shall be."""
    judged, target = row["figure"] if row["ratio"] is None else row["ratio"], row["target"]
    if target is None or judged == target:
        return _figure(target)
    return f"{'≥' if (judged > target) == row['met'] else '≤'} {_figure(target)}"


def _places(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where results were measured, those of one place together."""
    names: dict[str, list[str]] = {}
    for name, results in found.items():
        names.setdefault(_place(results), []).append(name)
    for place, measured in names.items():
        yield f"{', '.join(measured)}: {place}" if len(names) > 1 else place


def _curve() -> str:
    """chrF per language at the marks of the long recipe, from its results file."""
    path = ROOT / "benchmarks" / "results" / "translation_curve.json"
    if not path.is_file():
        return "Nothing was measured yet; `make bench BENCH=full` does.\n"
    results = json.loads(path.read_text())
    figures: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        measure, _, moment = row["measure"].partition(", after ")
        figures.setdefault(moment, {})[measure.removeprefix("chrF ")] = row["figure"]
    columns = list(next(iter(figures.values())))
    rows = [(moment, *(_figure(found[column]) for column in columns)) for moment, found in figures.items()]
    return f"{_table(('training time', *columns), rows)}\n{_place(results)}\n"


def _demo() -> str:
    """What the demonstration of a home hub was asked and answered."""
    path = ROOT / "benchmarks" / "results" / "demo_commands.json"
    if not path.is_file():
        return "Nothing was asked yet; `make demo` does.\n"
    results = json.loads(path.read_text())
    rows = [
        (row["text"], f"`{row['answer']}`", _MET[row["right"]], f"{row['latency_ms']:.0f}") for row in results["rows"]
    ]
    return f"{_table(('sentence', 'answer', 'as it should be', 'ms'), rows)}\n{_place(results)}\n"


def _place(results: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return f"Measured at commit {results['commit']} on {machine}."


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def measured_here() -> bool:
    """Whether a `make run` on this machine wrote other results than those that were committed."""
    git = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "benchmarks/results/smoke.json"]
    return shutil.which("git") is not None and subprocess.run(git, capture_output=True, check=False).returncode == 1


def with_quality_of(text: str, other: str) -> str:
    """`text` with the quality table of `other`."""
    kept = {found[2]: found[0] for found in _BLOCK.finditer(other)}
    return _BLOCK.sub(lambda found: kept["quality"] if found[2] == "quality" else found[0], text)


TABLES: dict[str, Callable[[], str]] = {
    "settings": _settings,
    "routes": _routes,
    "connectors": _connectors,
    "quality": partial(_measured, "smoke"),
    "curve": _curve,
    "kernels": partial(_several, "kernels*", plotted="tokens a second against requests at one moment"),
    "training": partial(_several, "training*", plotted="holdout loss against time of training"),
    "engine": partial(_several, "engine*"),
    "streaming": partial(_measured, "streaming"),
    "service": partial(_measured, "service"),
    "commands": partial(_several, "commands*"),
    "demo": _demo,
    "episodes": partial(_measured, "episodes"),
}
