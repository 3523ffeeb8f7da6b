"""How good an answer is, as far as that can be told without knowing what it means.

Five components, each from 0 to 1 and reported apart; the reward is their mean by the weights that
are configured. One that cannot be measured (no language was asked for) is null and has no part in
the mean. All of them can be gamed: they say that an answer looks like one, never that it is true.

- length: characters (as readers count them) up to the target; beyond the most allowed it falls again.
- quality: 0 for an empty answer; else the share that is not copied from the prompt, times the share
  that does not run in circles.
- diversity: distinct pairs of neighbouring words among all pairs (distinct-2, Li et al. 2016,
  arXiv:1510.03055); characters take the place of words in scripts without spaces.
- script: share of the letters in the script of the language that was asked for.
- language: 1 or 0, whether a detector takes the answer for that language. This package has none: it is
  what the service said, and null where nobody did. A "no" of a word or two in the right script is null too:
  that short, languages of one script cannot be told apart.

The service's judge (`adapter_service/languages/answers.py`) decides yes or no and knows instructions
and languages; a reward wants a slope to climb, so the two share ideas and no code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

from rl.unicode_text import graphemes, letters, script_of_language, script_share, units

# A name or a number may well be the same in both languages; two words in a row hardly are.
_MIN_COPIED_UNITS = 2
_MAX_PERIOD = 64
_MIN_WORDS, _MIN_LETTERS, _RIGHT_SCRIPT = 3, 12, 0.8
_TIMES_IN_A_ROW = 3
# Of longer answers and prompts the beginning is looked at: what decides is there, and the time stays bounded.
_MAX_UNITS = 4096


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and most that a number of the configuration may be."""

    least: float
    most: float


Weight = Annotated[float, Bounds(0.0, 1000.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """Weights count in relation to each other; at least one is above 0."""

    length_weight: Weight = 0.15
    quality_weight: Weight = 0.3
    diversity_weight: Weight = 0.15
    script_weight: Weight = 0.2
    language_weight: Weight = 0.2
    target_characters: Annotated[int, Bounds(1, 1_000_000)] = 12
    max_characters: Annotated[int, Bounds(1, 10_000_000)] = 2000

    def faults(self) -> list[str]:
        """What no key can see alone."""
        found = []
        if not any(self.weights().values()):
            found.append("every weight of 'reward' is 0; give at least one of them more")
        if self.target_characters > self.max_characters:
            found.append(
                f"'reward.target_characters' is {self.target_characters}, more than 'reward.max_characters' "
                f"({self.max_characters}); lower the one or raise the other"
            )
        return found

    def weights(self) -> dict[str, float]:
        return {
            "length": self.length_weight,
            "quality": self.quality_weight,
            "diversity": self.diversity_weight,
            "script": self.script_weight,
            "language": self.language_weight,
        }


COMPONENTS = tuple(RewardSettings().weights())


@dataclass(frozen=True, slots=True)
class Score:
    """`reward` is null where nothing that has a weight could be measured."""

    reward: float | None
    components: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(COMPONENTS))
    weights: dict[str, float] = field(default_factory=dict)


def score(
    output: str,
    *,
    prompt: str,
    settings: RewardSettings,
    language: str | None = None,
    language_ok: bool | None = None,
) -> Score:
    """Score one answer; `language` is the tag asked for, `language_ok` what a detector said of the answer."""
    answered, asked = units(output)[:_MAX_UNITS], units(prompt)[:_MAX_UNITS]
    script = script_of_language(language)
    components: dict[str, float | None] = {
        "length": _length(output, settings),
        "quality": _quality(answered, asked),
        "diversity": _diversity(answered),
        "script": None if script is None else script_share(output, script),
        "language": None,
    }
    if language_ok or (language_ok is False and _is_evidence(output, answered, components["script"])):
        components["language"] = float(language_ok)
    weights = settings.weights()
    measured = {name: value for name, value in components.items() if value is not None}
    total = sum(weights[name] for name in measured)
    reward = sum(weights[name] * value for name, value in measured.items()) / total if total else None
    return Score(reward, components, weights)


def _is_evidence(output: str, answered: Sequence[str], script: float | None) -> bool:
    """Whether a detector's "no" counts: for a wrong script always, for a right one where there is enough text."""
    is_long = len(answered) >= _MIN_WORDS and letters(output) >= _MIN_LETTERS
    return is_long or not output.strip() or (script is not None and script < _RIGHT_SCRIPT)


def _length(output: str, settings: RewardSettings) -> float:
    found = len(graphemes(output.strip()))
    if found > settings.max_characters:
        return settings.max_characters / found
    return min(1.0, found / settings.target_characters)


def _quality(answered: Sequence[str], asked: Sequence[str]) -> float:
    if not answered:
        return 0.0
    return (1.0 - copied_share(answered, asked)) * (1.0 - repeated_share(answered))


def copied_share(answered: Sequence[str], asked: Sequence[str]) -> float:
    """Longest run of the answer's words that stands in the prompt, as a share of the answer."""
    longest = _longest_common_run(answered, asked)
    is_echo = longest >= _MIN_COPIED_UNITS or longest == len(answered)
    return longest / len(answered) if is_echo else 0.0


def _longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    # Substring search runs in C; units hold no blanks, so that a run of them is a substring and the other way round.
    text, longest = f" {' '.join(right)} ", 0
    for start in range(len(left)):
        while start + longest < len(left) and f" {' '.join(left[start : start + longest + 1])} " in text:
            longest += 1
    return longest


def repeated_share(answered: Sequence[str]) -> float:
    """The largest share of the answer that is one phrase, said three times in a row or more, but for its first time."""
    longest = 0
    for period in range(1, min(_MAX_PERIOD, len(answered) // _TIMES_IN_A_ROW) + 1):
        run = 0
        for place in range(period, len(answered)):
            run = run + 1 if answered[place] == answered[place - period] else 0
            if run >= period * (_TIMES_IN_A_ROW - 1):
                longest = max(longest, run)
    return longest / len(answered) if answered else 0.0


def _diversity(answered: Sequence[str]) -> float:
    if len(answered) < 2:
        return float(len(answered))
    pairs = list(pairwise(answered))
    return len(set(pairs)) / len(pairs)
