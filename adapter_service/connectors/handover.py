"""What a thread of its own makes, handed over in order to the one who uses it; the thread is ahead by a bounded part.

The thread has ended when everything was taken, or an error was; when it is left before that, it ends at the next
thing that it hands over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextvars import copy_context
from typing import Generic, TypeVar

THREAD_NAME = "handing over"
# While nothing comes, the user looks around so often.
LOOK_SECONDS = 0.5
# A read that blocks ends by its own time-out; whoever leaves does not wait for that.
LEAVE_SECONDS = 2.0

T = TypeVar("T")
Put = Callable[[T], None]


class _LeftError(BaseException):
    """Nobody takes any more; raised where the thread hands over, so that it closes what it has open."""


def handed_over(
    make: Callable[[Put[T]], None],
    *,
    size_of: Callable[[T], int],
    max_bytes: int,
    wanted: Callable[[], int],
    waiting: Callable[[], None],
) -> Generator[T, None, None]:
    """What `make` puts, on a thread that has this one's context; its error comes after what it put before.

    It is ahead by up to `wanted()` things and `max_bytes`, or by one thing that is larger; what is being used counts.
    `wanted` is called on both threads; `waiting` on this one, about twice a second while nothing comes.
    """
    line = _Line(size_of, max_bytes, wanted)
    thread = threading.Thread(target=copy_context().run, args=(line.fill, make), name=THREAD_NAME, daemon=True)
    thread.start()
    try:
        yield from line.taken(waiting)
    finally:
        line.leave()
        thread.join(LEAVE_SECONDS)


class _Line(Generic[T]):
    """Things between the two threads, the first of them in use."""

    def __init__(self, size_of: Callable[[T], int], max_bytes: int, wanted: Callable[[], int]) -> None:
        self._size_of = size_of
        self._max_bytes = max_bytes
        self._wanted = wanted
        self._changed = threading.Condition()
        self._things: deque[T] = deque()
        self._bytes = 0
        self._error: BaseException | None = None
        self._is_over = self._is_left = False

    def fill(self, make: Callable[[Put[T]], None]) -> None:
        """On the thread that makes."""
        try:
            make(self._put)
        except BaseException as error:  # noqa: BLE001 - raised where the things are taken
            self._error = error
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def taken(self, waiting: Callable[[], None]) -> Iterator[T]:
        """On the thread that uses."""
        while self._has_come(waiting):
            yield self._things[0]
            with self._changed:
                self._bytes -= self._size_of(self._things.popleft())
                if self._has_room(self._max_bytes // 2):
                    self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        with self._changed:
            self._is_left = True
            self._changed.notify_all()

    def _put(self, thing: T) -> None:
        with self._changed:
            self._things.append(thing)
            self._bytes += self._size_of(thing)
            self._changed.notify_all()
            if not self._has_room(self._max_bytes):
                # Half of it at once: to wake up for each thing would be as much work as many a thing is.
                self._changed.wait_for(lambda: self._is_left or self._has_room(self._max_bytes // 2))
            if self._is_left:
                raise _LeftError

    def _has_come(self, waiting: Callable[[], None]) -> bool:
        """Wait for a thing; False when there is none to come."""
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._things or self._is_over, LOOK_SECONDS):
                    return bool(self._things)
            waiting()

    def _has_room(self, max_bytes: int) -> bool:
        return not self._things or (len(self._things) < self._wanted() and self._bytes < max_bytes)
