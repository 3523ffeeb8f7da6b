"""Training's share of the engine's thread while requests are served: a deficit counter.

As in deficit round robin (Shreedhar and Varghese 1995, doi:10.1109/90.502236): each second of serving earns
training `share` seconds, each second of training costs 1 − `share`, and training is due while there is
anything left. The two are in balance when training has had its share, whatever the slices' lengths.

Idle time earns neither side a burst. Training while no request waits costs at most its last slice: the first
request after a night of training waits for the slice under way and then has the thread. What was served
before training began earns nothing, and while it has nothing to do, serving earns it no more than
KEPT_SECONDS of serving do (or the longest turn, where that is more).

No clock in here: whoever measures says how long things took.
"""

from __future__ import annotations

import math

KEPT_SECONDS = 1.0
RECENT_SECONDS = 30.0


class TrainingShare:
    """At least `share` of the thread's busy time, 0 ≤ share < 1; with 0 training gets idle time alone."""

    def __init__(self, share: float) -> None:
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share is {share}; it is from 0 to less than 1")
        self.share = share
        self.served_seconds = 0.0
        self.trained_seconds = 0.0
        self._balance = 0.0  # seconds of training, times 1 − share, that serving still owes
        self._recent_served = 0.0
        self._recent_trained = 0.0

    def training_begins(self) -> None:
        """There is work that there was not before: nothing is owed to it yet."""
        self._balance = min(self._balance, 0.0)

    def served(self, seconds: float) -> None:
        """A prefill chunk, or a token for everybody, took so long."""
        earned = self.share * seconds
        most = max(self.share * KEPT_SECONDS, earned, self._balance)
        self._balance = min(self._balance + earned, most)
        self.served_seconds += seconds
        self._remember(seconds, trained=False)

    def trained(self, seconds: float) -> None:
        """A slice of training, between two layers, took so long."""
        cost = (1.0 - self.share) * seconds
        # Where it was not due, no request waited: what earlier slices cost is forgotten, the last one's is not,
        # for a request may have come while it ran.
        self._balance = max(self._balance, 0.0) - cost
        self.trained_seconds += seconds
        self._remember(seconds, trained=True)

    def training_is_due(self) -> bool:
        """Whether training shall have the next slice although requests wait."""
        return self._balance > 0.0

    @property
    def recent(self) -> float:
        """Training's share of the last RECENT_SECONDS or so in which the thread had work; 0.0 before any."""
        busy = self._recent_served + self._recent_trained
        return self._recent_trained / busy if busy else 0.0

    def _remember(self, seconds: float, *, trained: bool) -> None:
        fading = math.exp(-seconds / RECENT_SECONDS)
        self._recent_served *= fading
        self._recent_trained *= fading
        weight = RECENT_SECONDS * (1.0 - fading)
        if trained:
            self._recent_trained += weight
        else:
            self._recent_served += weight
