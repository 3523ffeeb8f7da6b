"""Answers that keep to a grammar: what may come next, as a mask over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Matcher(Protocol):
    """Where one answer stands in its grammar."""

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """New logits (vocabulary,), minus infinity where the grammar allows no token.

        Ends of answers are allowed exactly where the grammar accepts what there is.

        Raises:
            InvalidParameterError: the grammar cannot be followed any further.
        """
        ...

    def take(self, token: int) -> None:
        """Go on by one token, which `mask` allowed."""
        ...


class Constraint(Protocol):
    """A grammar, ready for any number of answers; `lark` is its text, for a server of others to follow."""

    @property
    def lark(self) -> str: ...

    def begin(self, ends: frozenset[int]) -> Matcher:
        """A matcher for a new answer, which any of the tokens `ends` ends."""
        ...
