"""Choose the next token of one sequence from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from adapter_service.engine.drawing import draw
from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.penalties import Penalties
from adapter_service.engine.requests import Sampling
from adapter_service.errors import NonFiniteLogitsError

# So cold, only the best token is ever drawn; dividing by less makes 0 / 0 of it in float32.
_GREEDY_BELOW = 1e-6


class TokenChooser:
    """Chooses token after token for one answer, with a random generator of its own.

    In this order: the grammar's mask, penalties and bias, the script's penalty, no end before the least
    length, temperature, top-k, top-p, min-p (see `draw`). A grammar that allows an end alone has its way
    before the least length. Each token takes one number of the generator, whatever was kept. Whatever is
    chosen goes into `trail`, if there is one, with its log-probabilities.
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
        self._penalties = Penalties(sampling)
        self._matcher = sampling.constraint.begin(eos_ids) if sampling.constraint else None
        self._greedy = not sampling.do_sample or sampling.temperature < _GREEDY_BELOW
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor, answer: Sequence[int]) -> int:
        """The next token after `answer`, from logits (vocabulary,), which stay as they are.

        Raises:
            NonFiniteLogitsError: they are no numbers, or leave no token to choose.
            InvalidParameterError: the grammar cannot be followed further, or a bias is for no token of the base.
        """
        policy = logits.float()
        whole = float(policy.logsumexp(-1)) if self._trail is not None else None
        if whole is not None:
            _check(whole, answer)
        allowed = self._edited(policy, answer)
        if self._greedy:
            token, share = int(allowed.argmax()), 1.0
            _check(float(allowed[token]), answer)  # the place of a NaN counts as the best one's
        else:
            token, share = self._drawn(allowed, answer)
        if self._matcher is not None:
            self._matcher.take(token)
        if self._trail is not None and whole is not None:
            top = self._likeliest(policy, whole)
            self._trail.add(token, float(policy[token]) - whole, math.log(share), top)
        return token

    def _edited(self, policy: torch.Tensor, answer: Sequence[int]) -> torch.Tensor:
        """What is chosen from, before temperature: `policy` itself where nothing is changed."""
        too_early = len(answer) < self._sampling.min_new_tokens
        if self._matcher is not None:
            _check(float(policy.max()), answer)  # the mask would hide it
            logits = self._matcher.mask(policy)
        elif self._penalties.change_nothing and self._foreign is None and not too_early:
            return policy
        else:
            logits = policy.clone()
        self._penalties.apply(logits, answer)
        ends = logits[self._eos]
        if self._foreign is not None:
            logits.sub_(self._foreign, alpha=self._sampling.foreign_script_penalty)
        if too_early:
            logits[self._eos] = -torch.inf
            if self._matcher is None or float(logits.max()) > -torch.inf:
                return logits
        if self._foreign is not None or too_early:
            logits[self._eos] = ends
        return logits

    def _drawn(self, logits: torch.Tensor, answer: Sequence[int]) -> tuple[int, float]:
        """A token, and the share of the draws that fall to it."""
        best = logits.max()
        _check(float(best), answer)
        sampling = self._sampling
        uniform = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        # The best logit becomes 0, so that no low temperature makes an infinity of it.
        tempered = (logits - best) / sampling.temperature
        return draw(tempered, uniform, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)

    def _likeliest(self, policy: torch.Tensor, whole: float) -> tuple[tuple[int, float], ...]:
        count = min(self._sampling.top_logprobs, policy.shape[-1])
        if not count:
            return ()
        best = policy.topk(count)
        return tuple(zip(best.indices.tolist(), (best.values - whole).tolist(), strict=True))


def _check(value: float, answer: Sequence[int]) -> None:
    """`value` is a maximum or a sum over the logits, which is finite if they are fit to choose from."""
    if not math.isfinite(value):
        raise NonFiniteLogitsError(
            f"the logits of token {len(answer) + 1} of the answer come to {value} and should be finite numbers; "
            "the adapter or the base computes beyond its range: ask another version, or the base alone"
        )
