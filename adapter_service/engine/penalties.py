"""What a request takes off the logits, or adds to them, before anything is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from adapter_service.engine.requests import Sampling
from adapter_service.errors import InvalidParameterError


class Penalties:
    """Repetition, presence and frequency of one answer's tokens, and a bias by token; only these are touched.

    Repetition multiplies or divides what the model gave; presence, frequency and bias are then added.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._bias = sampling.logit_bias
        self._places: dict[int, int] = {}
        self._ids = torch.zeros(0, dtype=torch.long)
        self._counts = torch.zeros(0)
        self._counted = 0

    @property
    def change_nothing(self) -> bool:
        return not (self._of_the_answer or self._bias)

    @property
    def _of_the_answer(self) -> bool:
        return self._repetition != 1.0 or self._presence != 0.0 or self._frequency != 0.0

    def apply(self, logits: torch.Tensor, answer: Sequence[int]) -> None:
        """Change logits (vocabulary,) in place. `answer` is what it was the last time, with more at its end.

        Raises:
            InvalidParameterError: the bias is for a token that the base does not have.
        """
        if self._of_the_answer and answer:
            self._count(answer)
            ids = self._ids.to(logits.device)
            values = logits[ids]
            if self._repetition != 1.0:
                values = torch.where(values > 0, values / self._repetition, values * self._repetition)
            values -= self._presence + self._frequency * self._counts.to(logits.device)
            logits[ids] = values
        if self._bias:
            _add(self._bias, logits)

    def _count(self, answer: Sequence[int]) -> None:
        for token in answer[self._counted :]:
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._ids):
                self._ids = torch.cat([self._ids, torch.tensor([token])])
                self._counts = torch.cat([self._counts, torch.ones(1)])
            else:
                self._counts[place] += 1
        self._counted = len(answer)


def _add(bias: Mapping[int, float], logits: torch.Tensor) -> None:
    if unknown := [token for token in bias if not 0 <= token < logits.shape[-1]]:
        raise InvalidParameterError(
            f"logit_bias is for token {unknown[0]}, and the base has {logits.shape[-1]}; "
            f"take ids from 0 to {logits.shape[-1] - 1}",
            parameter="logit_bias",
        )
    ids = torch.tensor(list(bias), device=logits.device)
    logits[ids] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
