"""Between candidate and incumbent: which of the two is served, with reasons in sentences and numbers. Pure.

Evidence comes from a holdout that neither has seen. Measuring is `evaluation`'s; here it is only judged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, Protocol

Verdict = Literal["passed", "rejected", "insufficient_evidence"]

BOOTSTRAP_DRAWS = 1_000
# Relative; saving rounds nothing, so more than this means that other weights were saved than trained.
RELOAD_TOLERANCE = 1e-3


class GateRules(Protocol):
    """What must hold, as in the `gate` section of the settings (losses per token, chrF 0..100)."""

    @property
    def min_holdout_samples(self) -> int: ...
    @property
    def min_loss_gain(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def max_chrf_loss(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Measurements:
    """How one adapter (or the base) did on the holdout; samples in the same order for both sides.

    `loss_sums` and `token_counts` are per sample, over the completion's tokens. `chrf` is per
    generated sample with a target, empty where nothing was generated. `weights_finite` and
    `reloaded_loss` (loss per token of the bytes as saved, read again) are the candidate's alone.
    """

    loss_sums: Sequence[float]
    token_counts: Sequence[int]
    chrf: Sequence[float] = ()
    weights_finite: bool = True
    reloaded_loss: float | None = None

    @property
    def loss_per_token(self) -> float:
        """Every token counts alike; NaN without any."""
        tokens = sum(self.token_counts)
        return sum(self.loss_sums) / tokens if tokens else math.nan


@dataclass(frozen=True, slots=True)
class Decision:
    """`reasons` has a sentence per rule that was looked at, with its numbers; `metrics` the numbers alone."""

    verdict: Verdict
    reasons: tuple[str, ...]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def as_dict(self) -> dict[str, Any]:
        """For the job's result and the version's row."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, slots=True)
class _Finding:
    verdict: Verdict
    sentence: str
    metrics: Mapping[str, Any] = field(default_factory=dict)


def decide(candidate: Measurements, incumbent: Measurements, rules: GateRules, *, seed: int = 0) -> Decision:
    """Whether `candidate` is better than `incumbent`, beyond what chance explains.

    Weights that are not finite or were saved wrong are rejected however small the holdout is; with
    too few samples nothing more is claimed. Equal arguments give equal decisions.
    """
    _check_pairs(candidate, incumbent)
    findings = [_finite(candidate), *_reloaded(candidate)]
    if all(finding.verdict == "passed" for finding in findings):
        findings += _evidence(candidate, incumbent, rules, seed)
    metrics: dict[str, Any] = {"holdout_samples": len(candidate.token_counts)}
    for finding in findings:
        metrics |= finding.metrics
    # They become JSON, which has no NaN.
    metrics = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return Decision(_worst(findings), tuple(finding.sentence for finding in findings), metrics)


def bootstrap_bound(differences: Sequence[float], token_counts: Sequence[int], confidence: float, seed: int) -> float:
    """What the difference in loss per token stays below, with `confidence` (one-sided, paired).

    Draws whole samples with replacement (Koehn 2004): tokens of one sample are not independent.
    """
    generator = random.Random(seed)  # noqa: S311 - statistics, not secrets
    indices = range(len(differences))
    draws = sorted(
        sum(differences[i] for i in drawn) / sum(token_counts[i] for i in drawn)
        for drawn in (generator.choices(indices, k=len(differences)) for _ in range(BOOTSTRAP_DRAWS))
    )
    return draws[min(BOOTSTRAP_DRAWS - 1, math.ceil(confidence * BOOTSTRAP_DRAWS) - 1)]


def _check_pairs(candidate: Measurements, incumbent: Measurements) -> None:
    if list(candidate.token_counts) != list(incumbent.token_counts):
        raise ValueError("candidate and incumbent were measured on different samples; score both on one holdout")
    if any(count < 1 for count in candidate.token_counts):
        raise ValueError("a held-out sample without completion tokens says nothing; leave it out")
    lengths = {
        len(candidate.loss_sums),
        len(incumbent.loss_sums),
        len(candidate.token_counts),
    }
    if len(lengths) > 1 or len(candidate.chrf) != len(incumbent.chrf):
        raise ValueError("one loss sum and one token count per sample, and equally many chrF on both sides")


def _evidence(candidate: Measurements, incumbent: Measurements, rules: GateRules, seed: int) -> list[_Finding]:
    samples = len(candidate.token_counts)
    if samples < max(1, rules.min_holdout_samples):
        return [_too_few(samples, rules)]
    if not math.isfinite(incumbent.loss_per_token):
        sentence = "The incumbent's loss is NaN or infinite, so nothing can be compared; roll it back first."
        return [_Finding("insufficient_evidence", sentence)]
    return [_loss(candidate, incumbent, rules, seed), *_chrf(candidate, incumbent, rules)]


def _finite(candidate: Measurements) -> _Finding:
    broken = sum(not math.isfinite(loss) for loss in candidate.loss_sums)
    if not candidate.weights_finite:
        return _Finding("rejected", "Some weights are NaN or infinite; train again with a lower learning rate.")
    if broken:
        return _Finding(
            "rejected",
            f"The loss is NaN or infinite on {broken} of {len(candidate.loss_sums)} held-out samples; "
            "train again with a lower learning rate.",
        )
    return _Finding("passed", "All weights are finite.")


def _reloaded(candidate: Measurements) -> list[_Finding]:
    reloaded = candidate.reloaded_loss
    if reloaded is None:
        return []
    trained = candidate.loss_per_token
    same = math.isclose(reloaded, trained, rel_tol=RELOAD_TOLERANCE) or not candidate.token_counts
    outcome = "as in memory" if same else f"but {trained:.3f} in memory; the files are not what was trained"
    sentence = f"Read again from its files, the adapter has loss {reloaded:.3f} per token, {outcome}."
    return [_Finding("passed" if same else "rejected", sentence, {"reloaded_loss": reloaded})]


def _too_few(samples: int, rules: GateRules) -> _Finding:
    return _Finding(
        "insufficient_evidence",
        f"{samples} samples were held out and {rules.min_holdout_samples} are needed to compare; "
        "train on more samples, or raise gate.holdout_fraction.",
    )


def _loss(candidate: Measurements, incumbent: Measurements, rules: GateRules, seed: int) -> _Finding:
    new, old = candidate.loss_per_token, incumbent.loss_per_token
    differences = [c - i for c, i in zip(candidate.loss_sums, incumbent.loss_sums, strict=True)]
    sure_gain = -bootstrap_bound(differences, candidate.token_counts, rules.confidence, seed)
    passed = sure_gain > rules.min_loss_gain
    moved = "fell" if new < old else "rose" if new > old else "stayed"
    sentence = (
        f"Loss per token on {len(differences)} held-out samples {moved} from {old:.3f} to {new:.3f} "
        f"({rules.confidence * 100:.3g} % sure of a gain of at least {sure_gain:.3f}"
        + (")." if passed else f", and more than {rules.min_loss_gain:.3f} is needed).")
    )
    metrics = {
        "candidate_loss": new,
        "incumbent_loss": old,
        "loss_gain": old - new,
        "sure_loss_gain": sure_gain,
        "holdout_tokens": sum(candidate.token_counts),
    }
    return _Finding("passed" if passed else "rejected", sentence, metrics)


def _chrf(candidate: Measurements, incumbent: Measurements, rules: GateRules) -> list[_Finding]:
    if not candidate.chrf:
        return []
    new, old = fmean(candidate.chrf), fmean(incumbent.chrf)
    passed = new >= old - rules.max_chrf_loss
    sentence = f"chrF on {len(candidate.chrf)} generated texts went from {old:.1f} to {new:.1f}" + (
        "." if passed else f", and a loss of at most {rules.max_chrf_loss:.1f} is allowed."
    )
    return [_Finding("passed" if passed else "rejected", sentence, {"candidate_chrf": new, "incumbent_chrf": old})]


def _worst(findings: Sequence[_Finding]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    if "rejected" in verdicts:
        return "rejected"
    return "insufficient_evidence" if "insufficient_evidence" in verdicts else "passed"
