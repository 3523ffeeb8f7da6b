"""Holdout loss against time of training, ours and the peers', as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

# Okabe and Ito's colours, which people of any colour vision tell apart, and markers for those who see none.
STYLES = (
    ("#0072B2", "o"), ("#56B4E9", "s"), ("#E69F00", "^"), ("#D55E00", "v"), ("#009E73", "P"), ("#000000", "D")
)  # fmt: skip


def plot_losses(path: Path, runs: Mapping[str, Sequence[tuple[float, float]]], *, title: str) -> None:
    """Draw each run's (seconds, holdout loss), from before its first step on.

    Without matplotlib nothing is drawn.
    """
    if not find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, points), (colour, marker) in zip(runs.items(), STYLES[: len(runs)], strict=True):
        seconds, losses = zip(*points, strict=True)
        axes.plot(seconds, losses, color=colour, marker=marker, markersize=6, linewidth=1.6, label=name)
    axes.set_xlabel("time of training (s)")
    axes.set_ylabel("holdout loss (nats per completion token)")
    axes.set_title(title, fontsize=10)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})
