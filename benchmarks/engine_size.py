"""How much of everything the engine's benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """`tokens` are of one answer, `single` requests of each kind one by one, `loops` requests of each client.

    `registered` versions, `train_seconds` of training by itself, `pairs` of requests over HTTP and without.
    """

    rounds: int
    tokens: int
    single: int
    loops: int
    registered: int
    train_seconds: float
    pairs: int


SIZES = {
    # To see that it runs; its figures say nothing.
    "quick": Size(rounds=1, tokens=8, single=3, loops=1, registered=40, train_seconds=2.0, pairs=5),
    "short": Size(rounds=3, tokens=32, single=15, loops=2, registered=1000, train_seconds=10.0, pairs=50),
    "full": Size(rounds=9, tokens=64, single=60, loops=6, registered=1000, train_seconds=20.0, pairs=200),
}
