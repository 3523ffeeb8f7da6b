"""How well held-out sentences are routed, and whether that is good enough to take the place of what is live. Pure.

Of each sentence it is known which answer is right (`curriculum.HeldOut`). What is asked of a positive: the very
function (tool), all of its required parameters (parameters), and the very arguments (exact), dates as they resolve. A
negative is right where it is answered as the other command's, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import comb
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.commands.curriculum import HeldOut
from adapter_service.commands.dated_tools import with_dates
from adapter_service.commands.schema import Command
from adapter_service.commands.tools import tool_of
from adapter_service.errors import InvalidParameterError
from adapter_service.settings import CommandSettings

# From so many sentences on a point is more than chance; below, an exact test says what chance explains.
MANY = 100
_POINT = 0.01
_MOMENT, _ZONE = datetime(2026, 1, 7, 12, 0, tzinfo=UTC), ZoneInfo("UTC")
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Routed:
    """What was answered: a call, or where `name` is None the refusal; `is_valid` is false of anything else."""

    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    is_valid: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one sentence; `is_right` is what two adapters are compared by."""

    command: str
    is_negative: bool
    is_valid: bool
    tool: bool
    parameters: bool
    exact: bool

    @property
    def is_right(self) -> bool:
        return self.tool


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of 0 to 1, None where there is no such sentence."""

    outcomes: tuple[Outcome, ...]

    @property
    def tool_accuracy(self) -> float | None:
        return _share([one.tool for one in self.outcomes if not one.is_negative])

    @property
    def parameter_accuracy(self) -> float | None:
        return _share([one.parameters for one in self.outcomes if not one.is_negative])

    @property
    def exact_accuracy(self) -> float | None:
        return _share([one.exact for one in self.outcomes if not one.is_negative])

    @property
    def refusal_accuracy(self) -> float | None:
        return _share([one.tool for one in self.outcomes if one.is_negative])

    @property
    def valid_share(self) -> float | None:
        return _share([one.is_valid for one in self.outcomes])

    def metrics(self) -> dict[str, Any]:
        """As JSON, with a row for each command."""
        by_command: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            by_command.setdefault(one.command, []).append(one)
        return {
            "sentences": sum(not one.is_negative for one in self.outcomes),
            "negatives": sum(one.is_negative for one in self.outcomes),
            **self._shares(),
            "per_command": {
                name: {"sentences": sum(not one.is_negative for one in them), **Score(tuple(them))._shares()}
                for name, them in by_command.items()
            },
        }

    def _shares(self) -> dict[str, float | None]:
        return {
            "tool_accuracy": self.tool_accuracy,
            "parameter_accuracy": self.parameter_accuracy,
            "exact_accuracy": self.exact_accuracy,
            "refusal_accuracy": self.refusal_accuracy,
            "valid_share": self.valid_share,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that was looked at."""

    passed: bool
    sentence: str


def score(commands: Sequence[Command], holdout: Sequence[HeldOut], answers: Sequence[Routed]) -> Score:
    """Each answer against what is right of its sentence."""
    by_name = {command.command_name: command for command in commands}
    return Score(tuple(_outcome(by_name, held, answer) for held, answer in zip(holdout, answers, strict=True)))


def findings(candidate: Score, live: Score | None, rules: CommandSettings) -> list[Finding]:
    """Every rule in a sentence with its numbers; without a `live` adapter there is nothing to be worse than."""
    found = [
        _least("the right function", candidate.tool_accuracy, rules.min_tool_accuracy, "min_tool_accuracy"),
        _least(
            "every required parameter", candidate.parameter_accuracy, rules.min_parameter_accuracy,
            "min_parameter_accuracy",
        ),
    ]  # fmt: skip
    return found if live is None else [*found, _no_worse(candidate, live)]


def mcnemar(worse: int, better: int) -> float:
    """How likely chance alone makes `worse` or more of so many changed answers wrong: exact, one-sided.

    McNemar's test (1947) by the binomial distribution.
    """
    changed = worse + better
    return sum(comb(changed, k) for k in range(worse, changed + 1)) / 2.0**changed if changed else 1.0


def _outcome(commands: Mapping[str, Command], held: HeldOut, answer: Routed) -> Outcome:
    tool = answer.is_valid and answer.name == held.command_name
    command = commands.get(held.command_name or "")
    given = answer.arguments or {}
    required = [one.name for one in command.parameters if one.required] if command else []
    return Outcome(
        command=held.counted_by,
        is_negative=held.is_negative,
        is_valid=answer.is_valid,
        tool=tool,
        parameters=tool and all(given.get(name) is not None for name in required),
        exact=tool and (command is None or _means(command, given) == _means(command, held.arguments)),
    )


def _means(command: Command, arguments: Mapping[str, Any]) -> str | None:
    """What it would be called with, at one moment for all: `noon` and `at_noon` are the same. None is no call."""
    try:
        return json.dumps(with_dates(tool_of(command), arguments, _MOMENT, _ZONE), sort_keys=True)
    except InvalidParameterError:
        return None


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _least(what: str, found: float | None, least: float, key: str) -> Finding:
    if found is None:
        return Finding(passed=False, sentence=f"No sentence was held out, so nothing is known of {what}.")
    passed = found >= least
    ending = "." if passed else f", and {least:.0%} are needed (commands.{key}); give more or clearer examples."
    return Finding(passed, f"{found:.1%} of the held-out sentences have {what}{ending}")


def _no_worse(candidate: Score, live: Score) -> Finding:
    pairs = list(zip(candidate.outcomes, live.outcomes, strict=True))
    worse = sum(old.is_right and not new.is_right for new, old in pairs)
    better = sum(new.is_right and not old.is_right for new, old in pairs)
    told = f"Of {len(pairs)} held-out sentences {better} are better and {worse} worse than with the live adapter"
    if len(pairs) >= MANY:
        passed = worse - better <= _POINT * len(pairs)
        return Finding(passed, f"{told}{'.' if passed else ', more than one point in all.'}")
    chance = mcnemar(worse, better)
    passed = worse <= better or chance >= _SIGNIFICANT
    return Finding(passed, f"{told} (McNemar's test: p = {chance:.3f}{'' if passed else ', which is no chance'}).")
