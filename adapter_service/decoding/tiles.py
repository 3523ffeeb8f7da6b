"""The innermost loops: what decides how fast a step is.

A row of weights is read once, from the front to the back, and multiplied with all rows of inputs meanwhile:

    weights of one output    | block 0 | block 1 | block 2 | block 3 | block 4 | …     widened to float32
    sums of each input row      sum 0     sum 1     sum 2     sum 3     sum 0    …     a vector each

Blocks are as long as a vector. Every one of the four sums adds up its own blocks in order, and they are added in one
order at the end, whatever number of rows is multiplied together: that is why a row's numbers do not depend on the rows
beside it. With many rows there are not enough registers for four sums of each, so that the weights, which are in the
nearest cache by then, are gone through more than once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapter_service.decoding.vectors import (
    F32,
    FLOAT,
    FLOAT32,
    GROUP,
    INT8_GROUPS,
    IS_WIDE,
    ITEM_SIZES,
    WIDTH,
    Emitter,
    constant,
    vector,
)

SUMS = 4
# Vectors that are summed up at once and still fit into registers beside weights and inputs.
_ACCUMULATORS = 16 if IS_WIDE else 8
# Vectors of an output that `weighted_sum` holds at once.
CHUNK = 8
# Rows that `add_rows` goes through side by side: as many streams as memory delivers well.
STREAMS = 4
# Bytes ahead of what is multiplied that memory is asked for.
_AHEAD = 1024


def dot_rows(kind: int, rows: int) -> Any:
    """A function for compiled code: one row of weights times `rows` rows of inputs.

        dot(weights, inputs, input_stride, outputs, output_stride, length, scale, scales)

    Addresses and strides are in bytes, `length` in numbers, a multiple of WIDTH. Output r, a float32 at
    `outputs + r × output_stride`, becomes `scale` × Σ weights × inputs of row r. Weights of INT8_GROUPS are times the
    float32 that each GROUP of them has at `scales`; of other kinds that address is not read.
    """

    @intrinsic
    def dot(
        _context: Any, weights: Any, inputs: Any, input_stride: Any, outputs: Any, output_stride: Any, length: Any,
        scale: Any, scales: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(*[types.intp] * 6, types.float32, types.intp)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_dot(Emitter(builder), kind, rows, *args)
            return context.get_dummy_value()

        return signature, generate

    return dot


def _emit_dot(
    emit: Emitter,
    kind: int,
    rows: int,
    weights: ir.Value,
    inputs: ir.Value,
    input_stride: ir.Value,
    outputs: ir.Value,
    output_stride: ir.Value,
    length: ir.Value,
    scale: ir.Value,
    scales: ir.Value,
) -> None:
    b = emit.builder
    bytes_of_block, bytes_of_inputs = WIDTH * ITEM_SIZES[kind], WIDTH * FLOAT
    blocks = b.sdiv(length, constant(WIDTH))
    rounds, left = b.sdiv(blocks, constant(SUMS)), b.srem(blocks, constant(SUMS))
    row_starts = [b.add(inputs, b.mul(input_stride, constant(row))) for row in range(rows)]
    zero = ir.Constant(vector(F32), [0.0] * WIDTH)
    together = max(1, _ACCUMULATORS // rows)
    passes = [range(first, min(first + together, SUMS)) for first in range(0, SUMS, together)]
    of_sum: list[list[ir.Value]] = []  # of each of the four, those of the rows

    def add_block(block: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        weight = emit.load(b.add(weights, b.mul(block, constant(bytes_of_block))), kind)
        if kind == INT8_GROUPS:
            group = b.sdiv(block, constant(GROUP // WIDTH))
            weight = b.fmul(weight, emit.splat(emit.number(b.add(scales, b.mul(group, constant(FLOAT))))))
        place = b.mul(block, constant(bytes_of_inputs))
        loaded = (emit.load(b.add(start, place), FLOAT32) for start in row_starts)
        return [emit.fma(weight, x, total) for x, total in zip(loaded, sums, strict=True)]

    for which in passes:

        def one_round(number: ir.Value, *sums: ir.Value, which: range = which) -> list[ir.Value]:
            first, made = b.mul(number, constant(SUMS)), []
            emit.prefetch(b.add(weights, b.add(b.mul(first, constant(bytes_of_block)), constant(_AHEAD))))
            for place, own in enumerate(which):
                made += add_block(b.add(first, constant(own)), list(sums[place * rows : (place + 1) * rows]))
            return made

        sums = emit.loop(rounds, [zero] * (rows * len(which)), one_round)
        of_sum += [sums[place * rows : (place + 1) * rows] for place in range(len(which))]

    first_left = b.mul(rounds, constant(SUMS))
    of_sum[0] = emit.loop(left, of_sum[0], lambda number, *sums: add_block(b.add(first_left, number), list(sums)))
    for row in range(rows):
        sums = [of_all[row] for of_all in of_sum]
        while len(sums) > 1:  # halves of them, as halves of a vector
            sums = [b.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        whole = emit.total(sums[0])
        emit.store(b.fmul(whole, scale), b.add(outputs, b.mul(output_stride, constant(row))))


def weighted_sum(kind: int, vectors: int) -> Any:
    """A function for compiled code: rows of a matrix, each times a number of its own, added up.

        weigh(factors, matrix, stride, count, scale, sums)

    Addresses and strides are in bytes. The float32 at `sums`, `vectors` × WIDTH of them, become what they are plus
    `scale` × Σ factor × row over `count` rows.
    """

    @intrinsic
    def weigh(_context: Any, factors: Any, matrix: Any, stride: Any, count: Any, scale: Any, sums: Any) -> Any:
        signature = types.void(*[types.intp] * 4, types.float32, types.intp)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_weighted_sum(Emitter(builder), kind, vectors, *args)
            return context.get_dummy_value()

        return signature, generate

    return weigh


def _emit_weighted_sum(
    emit: Emitter,
    kind: int,
    vectors: int,
    factors: ir.Value,
    matrix: ir.Value,
    stride: ir.Value,
    count: ir.Value,
    scale: ir.Value,
    sums: ir.Value,
) -> None:
    b = emit.builder
    places = [b.add(sums, constant(number * WIDTH * FLOAT)) for number in range(vectors)]
    begun = [emit.load(place, FLOAT32) for place in places]

    def add_row(number: ir.Value, *totals: ir.Value) -> list[ir.Value]:
        wide = emit.splat(b.fmul(emit.number(b.add(factors, b.mul(number, constant(FLOAT)))), scale))
        start = b.add(matrix, b.mul(number, stride))
        return [
            emit.fma(wide, emit.load(b.add(start, constant(place * WIDTH * ITEM_SIZES[kind])), kind), total)
            for place, total in enumerate(totals)
        ]

    for place, total in zip(places, emit.loop(count, begun, add_row), strict=True):
        emit.store(total, place)


def add_rows(kind: int, rows: int) -> Any:
    """A function for compiled code: rows of a kind, each times a number of its own, added to others from front to back.

        add(factors, matrix, stride, scale, sums, length)

    As `weighted_sum` of `rows` rows; it reads each row in one go, where that one reads a piece of every row. `length`
    is in numbers, a multiple of WIDTH.
    """

    @intrinsic
    def add(_context: Any, factors: Any, matrix: Any, stride: Any, scale: Any, sums: Any, length: Any) -> Any:
        signature = types.void(types.intp, types.intp, types.intp, types.float32, types.intp, types.intp)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_add_rows(Emitter(builder), kind, rows, *args)
            return context.get_dummy_value()

        return signature, generate

    return add


def _emit_add_rows(
    emit: Emitter,
    kind: int,
    rows: int,
    factors: ir.Value,
    matrix: ir.Value,
    stride: ir.Value,
    scale: ir.Value,
    sums: ir.Value,
    length: ir.Value,
) -> None:
    b = emit.builder
    starts = [b.add(matrix, b.mul(stride, constant(row))) for row in range(rows)]
    wide = [emit.splat(b.fmul(emit.number(b.add(factors, constant(row * FLOAT))), scale)) for row in range(rows)]

    def add_block(number: ir.Value) -> list[ir.Value]:
        place = b.mul(number, constant(WIDTH * ITEM_SIZES[kind]))
        at = b.add(sums, b.mul(number, constant(WIDTH * FLOAT)))
        total = emit.load(at, FLOAT32)
        for start, factor in zip(starts, wide, strict=True):
            from_row = b.add(start, place)
            emit.prefetch(b.add(from_row, constant(_AHEAD // STREAMS)))
            total = emit.fma(factor, emit.load(from_row, kind), total)
        emit.store(total, at)
        return []

    emit.loop(b.sdiv(length, constant(WIDTH)), [], add_block)
