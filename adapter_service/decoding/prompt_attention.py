"""Attention of many tokens of one prompt, compiled: products of pairs with keys, and with values turned the other way.

    turned     values (positions, size) of each group to (size, positions), once for all rows
    scores     queries (rows, size) × keys (positions, size)ᵀ, of some rows of one head at a time
    shares     of each row, over the positions that it sees; 0 elsewhere
    attended   shares (rows, positions) × turned values (size, positions)ᵀ

Queries and shares are rounded to bfloat16, as torch rounds them. In which order a row is summed up depends on where
the rows begin that are read with it. Addresses are in bytes, lengths in numbers.
"""

from __future__ import annotations

from numba import carray, float32, int64

from adapter_service.decoding.addresses import floats_at, halves_at, stand_alone
from adapter_service.decoding.compiling import compiled
from adapter_service.decoding.layers import fill, shares_of
from adapter_service.decoding.pairs import BLOCK, multiply_pairs, round_to_pairs
from adapter_service.decoding.tables import Integers
from adapter_service.decoding.vectors import BFLOAT16, FLOAT, ITEM_SIZES

# Rows whose scores are made at once.
ROWS_OF_PAIRS = 16
_BFLOAT = ITEM_SIZES[BFLOAT16]


def room_for_scores(positions: int) -> int:
    """How many float32 numbers `attend_to_prompt` wants room for, of so many positions that rows see."""
    return ROWS_OF_PAIRS * _whole_blocks(positions) * 3 // 2


def room_for_turned(positions: int, groups: int, size: int) -> int:
    """How many float32 numbers are as long as the values that `turn` has turned."""
    return groups * size * _whole_blocks(positions) // 2


def _whole_blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK


@compiled
def _first_seen(positions: Integers, window: int) -> int:
    """The first position that any row sees."""
    first: int = max(int64(0), positions[0] + 1 - window) if window else int64(0)
    return first


@compiled
def _span(positions: Integers, window: int) -> int:
    """How many positions rows see, in whole blocks."""
    count = positions[len(positions) - 1] + 1 - _first_seen(positions, window)
    span: int = (count + BLOCK - 1) // BLOCK * BLOCK
    return span


@compiled
def turn(group: int, size: int, values: int, head_stride: int, positions: Integers, window: int, turned: int) -> None:
    """What rows see of a group's values, bfloat16 (positions, size), to (size, positions) with zeros behind the last.

    `turned` is where that of the first group is.
    """
    stand_alone()
    seen, span = _first_seen(positions, window), _span(positions, window)
    count = positions[len(positions) - 1] + 1 - seen
    source = carray(halves_at(values + group * head_stride + seen * size * _BFLOAT), count * size)
    target = carray(halves_at(turned + group * size * span * _BFLOAT), size * span)
    for number in range(size):
        for position in range(count, span):
            target[number * span + position] = 0
    for position in range(count):
        for number in range(size):
            target[number * span + position] = source[position * size + number]


@compiled
def _share(scores: int, first: int, end: int, span: int, scale: float) -> None:
    """Of scores (span,) the shares of the positions `first` to before `end`, and 0 for the others."""
    stand_alone()
    own = scores + first * FLOAT
    part = float32(1.0) / shares_of(own, end - first, scale)
    numbers = carray(floats_at(own), end - first)
    for place in range(end - first):
        numbers[place] *= part
    fill(scores, first, float32(0.0))
    fill(scores + end * FLOAT, span - end, float32(0.0))


@compiled
def attend_to_prompt(
    heads: int, groups: int, size: int, queries: int, keys: int, head_stride: int, turned: int, positions: Integers,
    window: int, scale: float, first_row: int, rows: int, scores: int, attended: int,
) -> None:  # fmt: skip
    """Rows from `first_row` on, ROWS_OF_PAIRS at most, each over the positions up to its own; a window of 0 is none.

    `positions` are consecutive, those of all rows. `queries` are bfloat16 (all rows, heads, size), `attended` float32.
    """
    stand_alone()
    together, seen, span = heads // groups, _first_seen(positions, window), _span(positions, window)
    count = positions[first_row + rows - 1] + 1 - seen
    shares = scores + ROWS_OF_PAIRS * span * FLOAT
    q_stride, y_stride = heads * size * _BFLOAT, heads * size * FLOAT
    for head in range(heads):
        group, place = head // together, (first_row * heads + head) * size
        seen_keys = keys + group * head_stride + seen * size * _BFLOAT
        multiply_pairs(seen_keys, queries + place * _BFLOAT, q_stride, scores, span * FLOAT, size, count, rows)
        for row in range(rows):
            end = positions[first_row + row] + 1 - seen
            first = max(int64(0), end - window) if window else int64(0)
            _share(scores + row * span * FLOAT, first, end, span, scale)
        round_to_pairs(scores, shares, rows * span)
        values, y = turned + group * size * span * _BFLOAT, attended + place * FLOAT
        multiply_pairs(values, shares, span * _BFLOAT, y, y_stride, span, size, rows)
