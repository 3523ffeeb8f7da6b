"""What "equal to the serial answer" means where last bits may differ: up to the first token that was nearly another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Two best logits that lie closer than this may change places. Rows beside a row change the float32 logits of the tiny
# bases, which are up to some tens, by less than a thousandth of it.
BOUND = 1e-3


@dataclass(frozen=True, slots=True)
class Serial:
    """One answer by itself: its tokens, and how far the logit of each was above the next best."""

    tokens: list[int]
    leads: list[float]

    def sure(self, *, exactly: bool = False) -> int:
        """So many tokens, from the first, come out whatever is computed beside them."""
        ties = (place for place, lead in enumerate(self.leads) if lead < BOUND)
        return len(self.tokens) if exactly else next(ties, len(self.tokens))


def assert_equal_up_to_near_ties(found: Sequence[int], serial: Serial, *, exactly: bool = False) -> None:
    """`found` may be shorter: an answer under way, or one that was cut off."""
    sure = min(serial.sure(exactly=exactly), len(found))
    assert list(found[:sure]) == serial.tokens[:sure]
