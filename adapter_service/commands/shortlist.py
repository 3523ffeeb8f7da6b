"""Which of a node's commands a sentence can mean, as surely as its examples tell; an answer is held to these.

A small model that is trained on a few hundred sentences calls a wrong function of one in ten that it has not seen. What
the base itself makes of a sentence says which it is better: a ridge regression on it, with a column for each command,
is wrong on one in forty. On a sentence's list are its best guess and whatever is so near to it that COVERAGE of the
examples are on their own lists, each by the regression of all the others (a prediction set by the jackknife, Barber et
al. 2021, arXiv:1905.02928; exact it is for none, near for most). Where it is right about so many, that is one command.
Where there are too few examples to tell, nothing is left out, nor is ever a command of few: the coverage is of all
commands together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from adapter_service.conversation import Tool

if TYPE_CHECKING:
    import torch

# What a base makes of texts: (texts, hidden).
Embed = Callable[[Sequence[str]], "torch.Tensor"]

COVERAGE = 0.95
LEAST_EXAMPLES = 8
_RIDGE = 0.3
_LEAST_DEVIATION = 1e-6


class Shortlist:
    """By `calls`, sentences with the names of their commands."""

    def __init__(self, calls: Sequence[tuple[str, str]], embed: Embed) -> None:
        import torch

        self._embed = embed
        self._names = list(dict.fromkeys(name for _, name in calls))
        states = embed([text for text, _ in calls])
        self._mean = states.mean(0)
        self._deviation = states.std(0, correction=0).clamp(min=_LEAST_DEVIATION)
        right = torch.tensor([self._names.index(name) for _, name in calls])
        targets = torch.nn.functional.one_hot(right, len(self._names)).float()
        self._share = targets.mean(0)
        points = self._points(states)
        inverse = torch.linalg.inv(points @ points.T + _RIDGE * torch.eye(len(calls)))
        weights = inverse @ (targets - self._share)
        self._columns = points.T @ weights  # (hidden, commands)
        # What the regression of all the others says of each (Allen's PRESS).
        of_others = targets - weights / inverse.diagonal()[:, None]
        margins = (of_others.max(1).values - of_others.gather(1, right[:, None])[:, 0]).sort().values.tolist()
        rank = math.ceil((len(calls) + 1) * COVERAGE)
        self._margin = margins[rank - 1] if rank <= len(calls) else math.inf
        examples = Counter(name for _, name in calls)
        self._well_known = torch.tensor([examples[name] >= LEAST_EXAMPLES for name in self._names])

    def of(self, texts: Sequence[str], offered: Sequence[Sequence[Tool]]) -> list[tuple[Tool, ...]]:
        """Of each sentence those of the functions offered to it that it can mean; all, where it can mean none."""
        return [
            tuple(tool for tool in tools if tool.name not in out) or tuple(tools)
            for tools, out in zip(offered, self.left_out(texts), strict=True)
        ]

    def left_out(self, texts: Sequence[str]) -> list[frozenset[str]]:
        """Of each sentence the commands that it does not mean."""
        if math.isinf(self._margin):
            return [frozenset()] * len(texts)
        scores = self._points(self._embed(texts)) @ self._columns + self._share
        unlikely = (scores < scores.max(1, keepdim=True).values - self._margin) & self._well_known
        return [frozenset(name for name, out in zip(self._names, row, strict=True) if out) for row in unlikely.tolist()]

    def _points(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.normalize((states - self._mean) / self._deviation, dim=-1)
