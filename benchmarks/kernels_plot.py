"""Tokens a second over the number of requests that are answered together, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from benchmarks.training_plots import STYLES


def plot_speeds(path: Path, speeds: Mapping[str, Mapping[int, float]], *, title: str) -> None:
    """Draw each system's tokens a second by number of requests. Without matplotlib nothing is drawn."""
    if not find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, found), (colour, marker) in zip(speeds.items(), STYLES[: len(speeds)], strict=True):
        rows, tokens = zip(*sorted(found.items()), strict=True)
        axes.plot(rows, tokens, color=colour, marker=marker, markersize=6, linewidth=1.6, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(next(iter(speeds.values()))), [str(rows) for rows in next(iter(speeds.values()))])
    axes.set_xlabel("requests at one moment")
    axes.set_ylabel("tokens/s, all together, one thread")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc="upper left")
    figure.savefig(path, dpi=110, metadata={"Software": None})
