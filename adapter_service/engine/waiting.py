"""The line in which requests wait: first come, first served, except that some cannot begin yet.

A request whose adapter is still being read, or for which there are too few places, lets others go before
it; after so many of them the line stands until it is served. Without the first, one slow disk stops
everybody; without the second, whoever asks for a rare adapter among users of common ones waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# Two fillings of the eight places that there are by default: enough that a read which takes a few answers'
# time stops nobody, and no more than two rounds of answers for the one that waits.
MAX_OVERTAKEN = 16


@dataclass(slots=True)
class _Place(Generic[T]):
    item: T
    overtaken: int = 0


class WaitingLine(Generic[T]):
    """In order of arrival; it knows no threads, and no bound: its owner holds a lock, and refuses who is too many.

    Of those served between an item's coming and its own turn, none but those who stood before it and
    MAX_OVERTAKEN others: so it is served as soon as it is ready and they are gone.
    """

    def __init__(self) -> None:
        self._places: list[_Place[T]] = []

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        """In order of arrival, as it is now."""
        return iter([place.item for place in self._places])

    def add(self, item: T) -> None:
        """To the end of the line."""
        self._places.append(_Place(item))

    def next(self, ready: Callable[[T], bool]) -> T | None:
        """Take the oldest that is `ready` out of the line; those before it have been overtaken once more.

        None when nobody is ready, or when those who are stand behind one that was overtaken often enough.
        `ready` is asked of one after the other, from the oldest, and of nobody behind the one that is taken.
        """
        for index, place in enumerate(self._places):
            if ready(place.item):
                for passed in self._places[:index]:
                    passed.overtaken += 1
                del self._places[index]
                return place.item
            if place.overtaken >= MAX_OVERTAKEN:
                return None
        return None

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out all that are `unwanted` and give them back, in order; nobody has been overtaken by that."""
        removed: list[T] = []
        kept: list[_Place[T]] = []
        for place in self._places:  # asked once each: an item may become unwanted at any moment
            if unwanted(place.item):
                removed.append(place.item)
            else:
                kept.append(place)
        self._places = kept
        return removed
