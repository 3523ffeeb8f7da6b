"""Loss against time of training, ours and the peers', as a PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

# Okabe and Ito's colours, which people of any colour vision tell apart, and markers for those who see none.
_STYLES = (
    ("#0072B2", "o"), ("#56B4E9", "s"), ("#E69F00", "^"), ("#D55E00", "v"), ("#009E73", "P"), ("#000000", "D")
)  # fmt: skip
_SMOOTHED = 0.7
Losses = Sequence[tuple[float, float]]


def plot_losses(path: Path, runs: Mapping[str, tuple[Losses, float]], *, title: str) -> None:
    """Draw, for each run, (seconds, loss) of its steps, smoothed, and its holdout loss at the end.

    Without matplotlib nothing is drawn.
    """
    if not find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, (losses, holdout)), (colour, marker) in zip(runs.items(), _STYLES[: len(runs)], strict=True):
        seconds = [second for second, _ in losses]
        axes.plot(seconds, list(smoothed([loss for _, loss in losses])), color=colour, linewidth=1.6)
        axes.plot(seconds[-1:], [holdout], color=colour, marker=marker, markersize=8, linewidth=1.6, label=name)
    axes.set_xlabel("time of training (s)")
    axes.set_ylabel("loss (nats per completion token)")
    axes.set_title(f"{title}\nlines: training loss, smoothed; marks: holdout loss after the last step", fontsize=10)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def smoothed(values: Sequence[float]) -> Iterator[float]:
    """A mean of what was so far, in which what is older weighs less; free of a start from zero."""
    total = weight = 0.0
    for value in values:
        total = _SMOOTHED * total + (1 - _SMOOTHED) * value
        weight = _SMOOTHED * weight + (1 - _SMOOTHED)
        yield total / weight
