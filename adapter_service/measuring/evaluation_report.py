"""An evaluation as a Markdown section and as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapter_service.languages import LANGUAGES
from adapter_service.measuring.evaluation import Evaluation, Score
from adapter_service.measuring.markdown import table

if TYPE_CHECKING:
    from rich.table import Table

_LEGEND = """\
OK: right language and script, no echo, not degenerate. Beside the adapter's chrF stand the base's with
the same prompt, what unrelated text of the language reaches, and the target of the most similar
training pair.
"""
_HEADER = (
    "language",
    "pairs",
    "OK",
    "base OK",
    "in script",
    "echo",
    "degenerate",
    "chrF",
    "base",
    "unrelated",
    "retrieval",
)
_SHORT = {"in script": "script", "degenerate": "degen.", "unrelated": "unrel.", "retrieval": "retr."}


def render_markdown(evaluation: Evaluation) -> str:
    targets = [
        (row.measure, row.figure, row.unit, row.peer_figure, row.target, row.met) for row in evaluation.targets()
    ]
    return "\n".join(
        [
            f"## {evaluation.total.pairs} held-out pairs: {evaluation.total.ok} OK\n",
            _LEGEND,
            table(_HEADER, _table_rows(evaluation)),
            table(("target", "figure", "unit", "peer's figure", "wanted", "met"), targets),
        ]
    )


def rich_table(evaluation: Evaluation) -> Table:
    """Narrow enough for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{evaluation.adapter} on {evaluation.total.pairs} held-out pairs"
    shown = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in _HEADER:
        shown.add_column(_SHORT.get(name, name), justify="left" if name == "language" else "right", no_wrap=True)
    for row in _table_rows(evaluation):
        style = "bold" if row[0] == "all" else None
        shown.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row), style=style)
    return shown


def _table_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    for tag, score in evaluation.languages.items():
        yield (LANGUAGES[tag].name, *_figures(score))
    yield ("all", *_figures(evaluation.total))


def _figures(score: Score) -> tuple[object, ...]:
    return (
        score.pairs,
        score.ok,
        score.base_ok,
        score.in_script,
        score.echoes,
        score.degenerate,
        score.chrf,
        score.base_chrf,
        score.unrelated_chrf,
        score.retrieval_chrf,
    )
