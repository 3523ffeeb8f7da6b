"""Products of rows with matrices of every kind, in compiled code. Addresses are in bytes, lengths in numbers.

A matrix lies (outputs, length), each output's weights one behind the other, as torch keeps linear layers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, float32, int64

from adapter_service.decoding.addresses import floats_at, number_of, stand_alone
from adapter_service.decoding.compiling import compiled, compiled_into_caller, named
from adapter_service.decoding.pairs import multiply_pairs
from adapter_service.decoding.tables import Floats, Integers
from adapter_service.decoding.tiles import CHUNK, SIDE, STREAMS, add_rows, dot_rows, weighted_sum, widen
from adapter_service.decoding.vectors import (
    BFLOAT16,
    BFLOAT16_PAIRS,
    FLOAT,
    FLOAT16,
    FLOAT32,
    GROUP,
    INT8,
    INT8_GROUPS,
    IS_WIDE,
    ITEM_SIZES,
    WIDTH,
)

# Bytes that inputs may take of it beside weights and sums; the smallest that processors have now is 32 KiB. Where each
# vector of them is loaded for two outputs, the second cache is fast enough for what the nearest has no room for.
_FIRST_CACHE = (48 if IS_WIDE else 24) << 10
# Rows that go together even if that is too small for them: each group widens all of the weights anew.
_LEAST_TOGETHER = 4
# Outputs for which a group of inputs stays there; their weights stay in the second cache for the next group.
OUTPUTS_TOGETHER = 32
# Rows for which a strip of outputs is widened once instead of by each group of rows anew, and of which kinds it is.
_MANY = 32
_WIDENED = (BFLOAT16, FLOAT16, INT8_GROUPS)
_VECTOR, _HALF = WIDTH * FLOAT, ITEM_SIZES[FLOAT16]


def _product_of(kind: int) -> Any:
    """For matrices of one kind; `scales` is the address of each output's, or of each group's of each output, else 0."""
    strip, rest, is_widened = _strip_of(kind), _rest_of(kind), kind in _WIDENED
    widened_product: Any = _widened_product_of(kind) if is_widened else None
    size, is_scaled, is_grouped = ITEM_SIZES[kind], kind == INT8, kind == INT8_GROUPS

    @compiled
    @named("product", kind)
    def product(
        matrix: int, scales: int, inputs: int, input_stride: int, outputs: int, output_stride: int, length: int,
        count: int, rows: int,
    ) -> None:  # fmt: skip
        stand_alone()
        whole, stride = length // WIDTH * WIDTH, length * size
        scale_stride = FLOAT if is_scaled else length // GROUP * FLOAT if is_grouped else 0
        most = max(_LEAST_TOGETHER, _FIRST_CACHE // (length * FLOAT))  # rows of inputs that stay in the nearest cache
        if is_widened and rows >= _MANY:
            room = np.empty(OUTPUTS_TOGETHER * whole + WIDTH, np.float32)
            widened_product(
                room, matrix, stride, scales, scale_stride, inputs, input_stride, outputs, output_stride, whole, count,
                rows, most,
            )  # fmt: skip
        else:
            for first in range(0, count, OUTPUTS_TOGETHER):
                number, y = min(OUTPUTS_TOGETHER, count - first), outputs + first * FLOAT
                w, s = matrix + first * stride, scales + first * scale_stride
                strip(w, stride, s, scale_stride, inputs, input_stride, y, output_stride, whole, number, rows, most)
        if whole < length:
            rest(matrix, scales, inputs, input_stride, outputs, output_stride, length, whole, count, rows)

    return product


def _widened_product_of(kind: int) -> Any:
    """Strip by strip, each widened into `room`, which whoever calls keeps: its address is no reference to it."""
    widen_row, strip = widen(kind), _strip_of(FLOAT32)

    @compiled
    @named("widened", kind)
    def widened(
        room: Floats, matrix: int, stride: int, scales: int, scale_stride: int, inputs: int, input_stride: int,
        outputs: int, output_stride: int, length: int, count: int, rows: int, most: int,
    ) -> None:  # fmt: skip
        stand_alone()
        wide, wide_stride = -(-room.ctypes.data // _VECTOR) * _VECTOR, length * FLOAT
        for first in range(0, count, OUTPUTS_TOGETHER):
            number, y = min(OUTPUTS_TOGETHER, count - first), outputs + first * FLOAT
            for place in range(number):
                output = first + place
                widen_row(matrix + output * stride, scales + output * scale_stride, wide + place * wide_stride, length)
            strip(wide, wide_stride, 0, 0, inputs, input_stride, y, output_stride, length, number, rows, most)

    return widened


@cache
def _strip_of(kind: int) -> Any:
    """`count` outputs of `rows` rows, of which at most `most` go together; as `dot_rows`, whose strides those are."""
    of_1, of_2, of_4, of_8 = (_outputs_of(kind, rows) for rows in (1, 2, 4, 8))

    @compiled
    @named("strip", kind)
    def strip(
        w: int, stride: int, s: int, scale_stride: int, inputs: int, input_stride: int, outputs: int,
        output_stride: int, length: int, count: int, rows: int, most: int,
    ) -> None:  # fmt: skip
        stand_alone()
        row, paired = 0, count // SIDE * SIDE
        while row < rows:
            x, y, left = inputs + row * input_stride, outputs + row * output_stride, min(most, rows - row)
            if left >= 8:
                of_8(w, stride, s, scale_stride, x, input_stride, y, output_stride, length, paired)
                row += 8
            elif left >= 4:
                of_4(w, stride, s, scale_stride, x, input_stride, y, output_stride, length, paired)
                row += 4
            elif left >= 2:
                of_2(w, stride, s, scale_stride, x, input_stride, y, output_stride, length, paired)
                row += 2
            else:
                of_1(w, stride, s, scale_stride, x, input_stride, y, output_stride, length, paired)
                row += 1
        if paired < count:
            w, s, outputs = w + paired * stride, s + paired * scale_stride, outputs + paired * FLOAT
            for row in range(rows):
                x, y = inputs + row * input_stride, outputs + row * output_stride
                of_1(w, stride, s, scale_stride, x, input_stride, y, output_stride, length, count - paired)

    return strip


def _outputs_of(kind: int, rows: int) -> Any:
    """`count` outputs of `rows` rows, SIDE of several rows' at a time; as `dot_rows`, whose strides those are."""
    side = SIDE if rows > 1 else 1  # one row takes as long as memory takes, which delivers one output's weights best
    dot = dot_rows(kind, rows, side)

    @compiled
    @named("outputs", kind, rows)
    def outputs(
        weights: int, stride: int, scales: int, scale_stride: int, x: int, x_stride: int, y: int, y_stride: int,
        length: int, count: int,
    ) -> None:  # fmt: skip
        stand_alone()
        for first in range(0, count, side):
            w, s = weights + first * stride, scales + first * scale_stride
            dot(w, stride, s, scale_stride, x, x_stride, y + first * FLOAT, y_stride, length)

    return outputs


def _rest_of(kind: int) -> Any:
    """What is left of each product behind the last whole vector: of groups nothing, which are whole vectors."""
    number, float_at = number_of(kind), number_of(FLOAT32)
    size, is_scaled = ITEM_SIZES[kind], kind == INT8

    @compiled
    @named("rest", kind)
    def rest(
        matrix: int, scales: int, inputs: int, input_stride: int, outputs: int, output_stride: int, length: int,
        whole: int, count: int, rows: int,
    ) -> None:  # fmt: skip
        stand_alone()
        for row in range(rows):
            products = carray(floats_at(outputs + row * output_stride), count)
            for output in range(count):
                left = float32(0.0)
                for place in range(whole, length):
                    weight = number(matrix + (output * length + place) * size)
                    left += weight * float_at(inputs + row * input_stride + place * FLOAT)
                products[output] += left * (float_at(scales + output * FLOAT) if is_scaled else float32(1.0))

    return rest


_float32_product = _product_of(FLOAT32)
_bfloat16_product = _product_of(BFLOAT16)
_float16_product = _product_of(FLOAT16)
_int8_product = _product_of(INT8)
_int8_groups_product = _product_of(INT8_GROUPS)


@compiled
def multiply(
    kind: int, matrix: int, scales: int, inputs: int, input_stride: int, outputs: int, output_stride: int, length: int,
    count: int, rows: int,
) -> None:  # fmt: skip
    """`count` outputs of each of `rows` rows, which are float32, or bfloat16 for BFLOAT16_PAIRS."""
    if kind == BFLOAT16_PAIRS:
        multiply_pairs(matrix, inputs, input_stride, outputs, output_stride, length, count, rows)
    elif kind == BFLOAT16:
        _bfloat16_product(matrix, scales, inputs, input_stride, outputs, output_stride, length, count, rows)
    elif kind == INT8:
        _int8_product(matrix, scales, inputs, input_stride, outputs, output_stride, length, count, rows)
    elif kind == INT8_GROUPS:
        _int8_groups_product(matrix, scales, inputs, input_stride, outputs, output_stride, length, count, rows)
    elif kind == FLOAT16:
        _float16_product(matrix, scales, inputs, input_stride, outputs, output_stride, length, count, rows)
    else:
        _float32_product(matrix, scales, inputs, input_stride, outputs, output_stride, length, count, rows)


@compiled_into_caller
def multiply_outputs(
    matrix: Integers, first: int, count: int, inputs: int, input_stride: int, outputs: int, output_stride: int,
    length: int, rows: int,
) -> None:  # fmt: skip
    """As `multiply`, of some of a matrix's outputs, from `first` on; `matrix` is its line in a table.

    `outputs` is where all of a row's outputs begin.
    """
    weights, kind, scales, _ = matrix
    if kind == INT8:
        weights, scales = weights + first * length, scales + first * FLOAT
    elif kind == INT8_GROUPS:
        weights, scales = weights + first * length, scales + first * (length // GROUP) * FLOAT
    else:
        weights += first * length * (FLOAT if kind == FLOAT32 else _HALF)
    y = outputs + first * FLOAT
    multiply(kind, weights, scales, inputs, input_stride, y, output_stride, length, count, rows)


@compiled
def multiply_kept(
    kind: int, matrix: int, inputs: int, input_stride: int, outputs: int, output_stride: int, length: int, count: int,
    rows: int,
) -> None:  # fmt: skip
    """As `multiply`, of what caches keep: float32 or bfloat16."""
    if kind == BFLOAT16:
        _bfloat16_product(matrix, int64(0), inputs, input_stride, outputs, output_stride, length, count, rows)
    else:
        _float32_product(matrix, int64(0), inputs, input_stride, outputs, output_stride, length, count, rows)


def _end_of_combination(kind: int) -> Any:
    """Rows of a matrix of one kind, each times a factor, added to the `sums` behind the last whole vector."""
    number, factor_at, size = number_of(kind), number_of(FLOAT32), ITEM_SIZES[kind]

    @compiled
    @named("end", kind)
    def end(
        factors: int, matrix: int, stride: int, count: int, scale: float, sums: int, whole: int, length: int
    ) -> None:
        added = carray(floats_at(sums), length)
        for row in range(count):
            factor = factor_at(factors + row * FLOAT) * scale
            for place in range(whole, length):
                added[place] += factor * number(matrix + row * stride + place * size)

    return end


def _combination_of(kind: int) -> Any:
    """Rows of a matrix of one kind, each times a factor, added to `sums`."""
    weigh_chunk, weigh_half, weigh_one = (weighted_sum(kind, vectors) for vectors in (CHUNK, CHUNK // 2, 1))
    end, size = _end_of_combination(kind), ITEM_SIZES[kind]

    @compiled
    @named("combine", kind)
    def combine(factors: int, matrix: int, stride: int, count: int, scale: float, sums: int, length: int) -> None:
        stand_alone()
        place = 0
        while place + CHUNK * WIDTH <= length:
            weigh_chunk(factors, matrix + place * size, stride, count, scale, sums + place * FLOAT)
            place += CHUNK * WIDTH
        if place + CHUNK // 2 * WIDTH <= length:  # the size of a head is often so many
            weigh_half(factors, matrix + place * size, stride, count, scale, sums + place * FLOAT)
            place += CHUNK // 2 * WIDTH
        while place + WIDTH <= length:
            weigh_one(factors, matrix + place * size, stride, count, scale, sums + place * FLOAT)
            place += WIDTH
        end(factors, matrix, stride, count, scale, sums, place, length)

    return combine


_float32_combination = _combination_of(FLOAT32)
_bfloat16_combination = _combination_of(BFLOAT16)


@compiled
def add_weighted_rows(
    kind: int, factors: int, matrix: int, stride: int, count: int, scale: float, sums: int, length: int
) -> None:
    """`sums` (length,) += `scale` × Σ factor × row over `count` rows of a float32 or bfloat16 matrix."""
    if kind == BFLOAT16:
        _bfloat16_combination(factors, matrix, stride, count, scale, sums, length)
    else:
        _float32_combination(factors, matrix, stride, count, scale, sums, length)


def _up_of(kind: int, combine: Any) -> Any:
    """The second half of `add_low_rank`, of matrices of one kind: `inner` (rows, rank) with B."""
    add_streams, add_row, end = add_rows(kind, STREAMS), add_rows(kind, 1), _end_of_combination(kind)
    size = ITEM_SIZES[kind]

    @compiled
    @named("up", kind)
    def up(inner: int, b: int, rank: int, strength: float, y: int, y_stride: int, outputs: int, rows: int) -> None:
        stride, whole, number = outputs * size, outputs // WIDTH * WIDTH, 0
        if rows > 1:  # B stays in a cache from one row to the next; sums are added up in the same order
            for row in range(rows):
                combine(inner + row * rank * FLOAT, b, stride, rank, strength, y + row * y_stride, outputs)
            return
        while number + STREAMS <= rank:
            add_streams(inner + number * FLOAT, b + number * stride, stride, strength, y, whole)
            number += STREAMS
        while number < rank:
            add_row(inner + number * FLOAT, b + number * stride, stride, strength, y, whole)
            number += 1
        end(inner, b, stride, rank, strength, y, whole, outputs)

    return up


_float32_up = _up_of(FLOAT32, _float32_combination)
_bfloat16_up = _up_of(BFLOAT16, _bfloat16_combination)
_float16_up = _up_of(FLOAT16, _combination_of(FLOAT16))


@compiled
def add_low_rank(
    kind: int, a: int, b: int, rank: int, strength: float, x: int, x_stride: int, inputs: int, y: int, y_stride: int,
    outputs: int, rows: int, inner: int,
) -> None:  # fmt: skip
    """`y` (rows, outputs) += `strength` × (`x` Aᵀ) B.

    A (rank, inputs) and B (rank, outputs) are of a kind without scales; `x` (rows, inputs) is as `multiply` has it of
    that kind, and `inner` is room for rows × rank numbers.
    """
    multiply(kind, a, int64(0), x, x_stride, inner, rank * FLOAT, inputs, rank, rows)
    if kind in (BFLOAT16, BFLOAT16_PAIRS):
        _bfloat16_up(inner, b, rank, strength, y, y_stride, outputs, rows)
    elif kind == FLOAT16:
        _float16_up(inner, b, rank, strength, y, y_stride, outputs, rows)
    else:
        _float32_up(inner, b, rank, strength, y, y_stride, outputs, rows)
