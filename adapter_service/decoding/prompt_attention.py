"""Attention of many tokens of one prompt, compiled: products of pairs with keys, and with values turned the other way.

    scores     queries (rows, size) × keys (positions, size)ᵀ, of some rows of one head at a time
    shares     of each row, over the positions that it sees; 0 elsewhere
    attended   shares (rows, positions) × turned values (size, positions)ᵀ

Queries and shares are rounded to bfloat16, as torch rounds them. In which order a row is summed up depends on what the
rows of its thread see together: other numbers of threads come to other last bits. Addresses are in bytes, lengths in
numbers.
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
_ROWS = 16
_BFLOAT = ITEM_SIZES[BFLOAT16]


def room_for_scores(positions: int, size: int) -> int:
    """How many float32 numbers `attend_to_prompt` wants room for, of so many positions that its rows see."""
    span = _span(positions)
    return _ROWS * span + (_ROWS + size) * span // 2


def _span(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK


@compiled
def _turn(values: int, turned: int, count: int, span: int, size: int) -> None:
    """bfloat16 (count, size) to (size, span), with zeros behind the last."""
    stand_alone()
    source, target = carray(halves_at(values), count * size), carray(halves_at(turned), size * span)
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
    heads: int, groups: int, size: int, queries: int, rounded: int, keys: int, values: int, head_stride: int,
    positions: Integers, window: int, scale: float, scores: int, attended: int,
) -> None:  # fmt: skip
    """Queries (rows, heads, size) of consecutive positions, each over those up to its own; `attended` is as they are.

    `rounded` has room for the queries in bfloat16. A window of 0 is none.
    """
    stand_alone()
    rows, together = len(positions), heads // groups
    seen = max(0, positions[0] + 1 - window) if window else 0
    count = positions[rows - 1] + 1 - seen
    span = (count + BLOCK - 1) // BLOCK * BLOCK
    shares = scores + _ROWS * span * FLOAT
    turned = shares + _ROWS * span * _BFLOAT
    q_stride, y_stride = heads * size * _BFLOAT, heads * size * FLOAT
    round_to_pairs(queries, rounded, rows * heads * size)
    for head in range(heads):
        of_group = head // together * head_stride + seen * size * _BFLOAT
        if head % together == 0:
            _turn(values + of_group, turned, count, span, size)
        for row in range(0, rows, _ROWS):
            number, place = min(_ROWS, rows - row), (row * heads + head) * size
            q, y = rounded + place * _BFLOAT, attended + place * FLOAT
            multiply_pairs(keys + of_group, q, q_stride, scores, span * FLOAT, size, count, number)
            for own in range(number):
                end = positions[row + own] + 1 - seen
                first = max(int64(0), end - window) if window else int64(0)
                _share(scores + own * span * FLOAT, first, end, span, scale)
            round_to_pairs(scores, shares, number * span)
            multiply_pairs(turned, shares, span * _BFLOAT, y, y_stride, span, size, number)
