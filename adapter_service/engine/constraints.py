"""Answers that keep to a grammar: what may come next, as a mask over the vocabulary."""

from __future__ import annotations

from typing import Protocol

import torch


class Matcher(Protocol):
    """Where one answer stands in its grammar."""

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocabulary,), minus infinity where the grammar allows no token; ends of answers are tokens too."""
        ...

    def take(self, token: int) -> None:
        """Go on by one token, which `mask` allowed."""
        ...


class Constraint(Protocol):
    """A grammar, ready for any number of answers."""

    def begin(self, ends: frozenset[int]) -> Matcher:
        """A matcher for a new answer, which one of `ends` shall end."""
        ...
