"""Choose the next token of one sequence from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.requests import Sampling

# top-p is looked for among this many best tokens before the whole vocabulary is sorted: sorting
# 262,144 logits takes 22 ms, as long as a decoding step.
_CANDIDATES = 1024
# So cold, only the best token is ever drawn; dividing by less makes 0 / 0 of it in float32.
_GREEDY_BELOW = 1e-6


class TokenChooser:
    """Chooses token after token for one answer, with a random generator of its own.

    Whatever it chooses goes into `trail`, if there is one, with its log-probabilities.
    """

    def __init__(
        self,
        sampling: Sampling,
        eos_ids: frozenset[int],
        trail: TokenTrail | None = None,
        foreign: torch.Tensor | None = None,
    ) -> None:
        """`foreign` (vocabulary,) is 1 for what `sampling.foreign_script_penalty` is for; ends of answers pay none."""
        self._sampling = sampling
        self._foreign = foreign
        self._eos = sorted(eos_ids)
        self._trail = trail
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor, answer: Sequence[int]) -> int:
        """The next token after `answer`, from logits (vocabulary,)."""
        policy = logits = logits.float()
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0 and answer:
            logits = _penalized(logits, answer, sampling.repetition_penalty)
        if self._foreign is not None:
            ends = logits[self._eos]
            logits = logits.sub(self._foreign, alpha=sampling.foreign_script_penalty)
            logits[self._eos] = ends
        if len(answer) < sampling.min_new_tokens:
            logits = logits.clone()
            logits[self._eos] = -torch.inf
        if not sampling.do_sample or sampling.temperature < _GREEDY_BELOW:
            token, share = int(logits.argmax()), 1.0
        else:
            # The best logit becomes 0, so that no low temperature makes an infinity of it.
            token, share = self._drawn((logits - logits.max()) / sampling.temperature)
        if self._trail is not None:
            self._trail.add(token, float(policy[token] - policy.logsumexp(-1)), math.log(share))
        return token

    def _drawn(self, logits: torch.Tensor) -> tuple[int, float]:
        """A token, and the share of the draws that fall to it."""
        values, tokens, whole = _best(logits, self._sampling.top_k, self._sampling.top_p)
        probabilities = (values - whole).exp().double().cpu()
        if self._sampling.top_p < 1.0:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities * (before < self._sampling.top_p)  # the first is always kept
        cumulative = probabilities.cumsum(-1)
        threshold = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        place = min(int(torch.searchsorted(cumulative, threshold, right=True)), len(tokens) - 1)
        return int(tokens[place]), float(probabilities[place] / cumulative[-1])


def _penalized(logits: torch.Tensor, answer: Sequence[int], penalty: float) -> torch.Tensor:
    seen = torch.tensor(sorted(set(answer)), device=logits.device)
    values = logits[seen]
    return logits.index_put((seen,), torch.where(values > 0, values / penalty, values * penalty))


def _best(logits: torch.Tensor, top_k: int, top_p: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits and ids of tokens that may be drawn, best first where it matters, and the whole.

    The whole is the logarithm of what the probabilities are shares of: for top-k its own tokens,
    otherwise the vocabulary. Without top-k, top-p is exact as well: when the candidates' share of
    the whole falls short of it, all are sorted.
    """
    size = logits.shape[-1]
    if top_k:
        best = logits.topk(min(top_k, size))
        return best.values, best.indices, best.values.logsumexp(-1)
    whole = logits.logsumexp(-1)
    if top_p >= 1.0:
        return logits, torch.arange(size, device=logits.device), whole
    best = logits.topk(min(_CANDIDATES, size))
    if (best.values.logsumexp(-1) - whole).exp() < top_p:
        best = logits.sort(descending=True)  # type: ignore[assignment]
    return best.values, best.indices, whole
