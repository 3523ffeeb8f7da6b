"""How far one reading of a file has come, and how long a range it asks for next.

A stream is left when its samples are enough, and what was fetched beyond them was fetched in vain.
So a range is a sixteenth of what was read before it, 32 KiB at first: a stream that is left after
2,000 samples has read a few per cent too much, and one that goes on needs about a hundred requests
for its first 100 MB. Of a part whose end is known nothing is fetched in vain.
"""

from __future__ import annotations

MIN_RANGE_BYTES = 32_768
MAX_RANGE_BYTES = 8_388_608
_FRACTION = 16


class Reading:
    """The bytes from `offset` on, up to `stop` where only a part is read; whoever reads moves `offset`.

    `least_bytes` is a longer first range, for where a request costs more than bytes in vain.
    """

    def __init__(self, offset: int, stop: int | None = None, least_bytes: int = 0) -> None:
        self.offset = offset
        self.stop = stop
        self.is_at_end = False
        self._began_at = offset
        self._least_bytes = least_bytes

    @property
    def is_complete(self) -> bool:
        return self.is_at_end or (self.stop is not None and self.offset >= self.stop)

    @property
    def asked_bytes(self) -> int:
        """The length of the next range."""
        if self.stop is not None:
            return min(self.stop - self.offset, MAX_RANGE_BYTES)
        read_before = self.offset - self._began_at
        return min(max(read_before // _FRACTION, MIN_RANGE_BYTES, self._least_bytes), MAX_RANGE_BYTES)

    @property
    def header(self) -> str:
        """The next range as the header `Range` names it."""
        return f"bytes={self.offset}-{self.offset + self.asked_bytes - 1}"
