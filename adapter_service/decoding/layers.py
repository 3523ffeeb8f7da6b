"""What a step computes between the products, of one row at a time, in float32 and compiled.

Addresses are in bytes, lengths in numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, float32, int32, uint16, uint32

from adapter_service.decoding.addresses import bits_at, float_of_bits, floats_at, halves_at, number_of, stand_alone
from adapter_service.decoding.compiling import compiled, compiled_in_order, compiled_in_vectors, compiled_into_caller
from adapter_service.decoding.products import add_weighted_rows, multiply_kept
from adapter_service.decoding.vectors import BFLOAT16, FLOAT, FLOAT32, ITEM_SIZES

SILU, GELU_TANH = range(2)
_LN2_HIGH, _LN2_LOW = float32(0.693359375), float32(-2.12194440e-4)
_LOG2_E = float32(1.44269504088896341)
_BFLOAT = ITEM_SIZES[BFLOAT16]
# Tokens of a prompt that are multiplied with keys at once.
ROWS_IN_ORDER = 8
_bfloat16_at, _float32_at = number_of(BFLOAT16), number_of(FLOAT32)


@compiled_in_order
def exp32(x: float) -> float:
    """eˣ in float32, within 2 units of the last place, in operations that vectors have.

    The polynomial is Cephes' expf (Moshier 1989, netlib.org/cephes).
    """
    x = min(max(x, float32(-87.0)), float32(88.0))
    power = np.floor(x * _LOG2_E + float32(0.5))
    x = x - power * _LN2_HIGH - power * _LN2_LOW
    p = float32(1.9875691500e-4)
    p = p * x + float32(1.3981999507e-3)
    p = p * x + float32(8.3334519073e-3)
    p = p * x + float32(4.1665795894e-2)
    p = p * x + float32(1.6666665459e-1)
    p = p * x + float32(5.0000001201e-1)
    p = p * x * x + x + float32(1.0)
    power_of_two: float = float_of_bits((int32(power) + int32(127)) << int32(23))
    power_of_two_times: float = p * power_of_two
    return power_of_two_times


@compiled_in_vectors
def norm(x: int, scale: int, epsilon: float, y: int, length: int) -> None:
    """y = x / sqrt(mean(x²) + epsilon) × scale; `y` may be `x`."""
    stand_alone()
    numbers, scales, normed = (
        carray(floats_at(x), length),
        carray(floats_at(scale), length),
        carray(floats_at(y), length),
    )
    squares = float32(0.0)
    for place in range(length):
        squares += numbers[place] * numbers[place]
    factor = float32(1.0) / math.sqrt(squares / float32(length) + epsilon)
    for place in range(length):
        normed[place] = numbers[place] * factor * scales[place]


@compiled
def add(x: int, y: int, length: int) -> None:
    """y += x."""
    numbers, sums = carray(floats_at(x), length), carray(floats_at(y), length)
    for place in range(length):
        sums[place] += numbers[place]


@compiled
def fill(x: int, length: int, number: float) -> None:
    numbers = carray(floats_at(x), length)
    for place in range(length):
        numbers[place] = number


@compiled
def embed(kind: int, weights: int, factor: float, state: int, length: int) -> None:
    """One row of an embedding, float32 or bfloat16, times a factor."""
    states = carray(floats_at(state), length)
    for place in range(length):
        states[place] = factor * (
            _bfloat16_at(weights + place * _BFLOAT) if kind == BFLOAT16 else _float32_at(weights + place * FLOAT)
        )


@compiled
def rotate(x: int, heads: int, size: int, cosines: int, sines: int) -> None:
    """Rotary embedding of heads (heads, size), where the two halves of a head are the parts of its complex numbers."""
    stand_alone()
    half = size // 2
    cosine, sine = carray(floats_at(cosines), half), carray(floats_at(sines), half)
    for head in range(heads):
        first = carray(floats_at(x + head * size * FLOAT), half)
        second = carray(floats_at(x + (head * size + half) * FLOAT), half)
        for place in range(half):
            real, imaginary = first[place], second[place]
            first[place] = real * cosine[place] - imaginary * sine[place]
            second[place] = imaginary * cosine[place] + real * sine[place]


@compiled
def keep(kind: int, heads: int, size: int, x: int, cache: int, head_stride: int, position: int) -> None:
    """Put heads (heads, size) where the cache has a token's: `cache` + head × `head_stride` + `position` × size."""
    stand_alone()
    for head in range(heads):
        source = x + head * size * FLOAT
        if kind == BFLOAT16:
            bits = carray(bits_at(source), size)
            kept = carray(halves_at(cache + head * head_stride + position * size * _BFLOAT), size)
            for place in range(size):  # to the nearest, and of two to the even one
                even = (bits[place] >> uint32(16)) & uint32(1)
                rounded = uint16((bits[place] + uint32(0x7FFF) + even) >> uint32(16))
                is_number = (bits[place] & uint32(0x7FFFFFFF)) <= uint32(0x7F800000)
                kept[place] = rounded if is_number else uint16(0x7FC0)
        else:
            numbers = carray(floats_at(source), size)
            wide = carray(floats_at(cache + head * head_stride + position * size * FLOAT), size)
            for place in range(size):
                wide[place] = numbers[place]


@compiled_in_vectors
def shares_of(scores: int, length: int, scale: float) -> float:
    """exp(score × scale − the largest) in the place of each score; their sum."""
    stand_alone()
    numbers = carray(floats_at(scores), length)
    largest = float32(-math.inf)
    for place in range(length):
        numbers[place] *= scale
        largest = max(largest, numbers[place])
    total: float = float32(0.0)
    for place in range(length):
        share = exp32(numbers[place] - largest)
        numbers[place] = share
        total += share
    return total


@compiled
def attend(
    kind: int, heads: int, size: int, query: int, keys: int, values: int, first: int, end: int, scale: float,
    scores: int, attended: int,
) -> None:  # fmt: skip
    """One token's queries (heads, size), which share keys, over the positions `first` to before `end`.

    `scores` has room for heads × (end − first) numbers; `attended` is (heads, size).
    """
    stand_alone()
    count, start = end - first, first * size * (_BFLOAT if kind == BFLOAT16 else FLOAT)
    multiply_kept(kind, keys + start, query, size * FLOAT, scores, count * FLOAT, size, count, heads)
    for head in range(heads):
        _average(
            kind, scores + head * count * FLOAT, values + start, count, scale, attended + head * size * FLOAT, size
        )


@compiled
def attend_in_order(
    kind: int, heads: int, groups: int, size: int, query: int, keys: int, values: int, head_stride: int, position: int,
    rows: int, window: int, scale: float, scores: int, attended: int,
) -> None:  # fmt: skip
    """As `attend`, to the last bit, of one prompt's tokens from `position` on, at most ROWS_IN_ORDER of them.

    Each sees itself and those before it, the last `window` of them where that is not 0. `query` and `attended` are
    (rows, heads, size), and `scores` has room for ROWS_IN_ORDER × (position + rows) numbers.
    """
    stand_alone()
    together, stride, item = heads // groups, heads * size * FLOAT, _BFLOAT if kind == BFLOAT16 else FLOAT
    begin = max(0, position + 1 - window) if window else 0  # of what the first one sees
    count = position + rows - begin
    for head in range(heads):
        own, of_group = head * size * FLOAT, head // together * head_stride
        seen = keys + of_group + begin * size * item
        multiply_kept(kind, seen, query + own, stride, scores, count * FLOAT, size, count, rows)
        for row in range(rows):
            end = position + row + 1
            first = max(0, end - window) if window else 0
            of_row, start = scores + (row * count + first - begin) * FLOAT, values + of_group + first * size * item
            _average(kind, of_row, start, end - first, scale, attended + row * stride + own, size)


@compiled_into_caller
def _average(kind: int, scores: int, values: int, count: int, scale: float, averaged: int, size: int) -> None:
    """`averaged` (size,) of `values` (count, size), by the shares that `scores` × `scale` come to."""
    part = float32(1.0) / shares_of(scores, count, scale)
    fill(averaged, size, float32(0.0))
    add_weighted_rows(
        kind, scores, values, size * (_BFLOAT if kind == BFLOAT16 else FLOAT), count, part, averaged, size
    )


@compiled_in_vectors
def activate(kind: int, gate: int, up: int, length: int) -> None:
    """gate = f(gate) × up, with f SiLU or the GELU that is made of a tanh."""
    stand_alone()
    gates, ups = carray(floats_at(gate), length), carray(floats_at(up), length)
    if kind == SILU:
        for place in range(length):
            x = gates[place]
            gates[place] = x / (float32(1.0) + exp32(-x)) * ups[place]
    else:
        for place in range(length):  # (1 + tanh(u)) / 2 = 1 / (1 + exp(−2u))
            x = gates[place]
            inner = float32(1.5957691216057308) * (x + float32(0.044715) * x * x * x)
            gates[place] = x / (float32(1.0) + exp32(-inner)) * ups[place]
