"""What the benchmark of commands says of the gate's figures."""

from __future__ import annotations

from benchmarks.commands import _quality

METRICS = {
    "sentences": 40, "negatives": 10,
    "tool_accuracy": 0.975, "exact_accuracy": 0.75, "refusal_accuracy": 0.9, "valid_share": 1.0,
}  # fmt: skip


def test_each_figure_says_what_it_is_of_and_targets_are_for_what_is_judged() -> None:
    rows = list(_quality("new", METRICS, judged=True))
    assert [(row.measure, row.unit, row.met) for row in rows] == [
        ("new: the right function", "of 1 in 40 sentences", True),
        ("new: exact arguments", "of 1 in 40 sentences", False),
        ("new: refusals, and other commands' sentences", "of 1 in 10 sentences", None),
        ("new: valid answers", "of 1 in 50 sentences", None),
    ]
    assert all(row.met is None for row in _quality("afresh", METRICS, judged=False))
