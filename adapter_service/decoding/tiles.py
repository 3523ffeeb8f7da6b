"""The innermost loops: what decides how fast a step is.

A row of weights is read once, from the front to the back, and multiplied with all rows of inputs meanwhile:

    weights of one output    | block 0 | block 1 | block 2 | block 3 | block 4 | …     widened to float32
    sums of each input row      sum 0     sum 1     sum 0     sum 1     sum 0    …     a vector each

Blocks are as long as a vector. Every one of the sums adds up its own blocks in order, the first one also those that
are left behind the last whole round, and they are added in one order at the end, whatever number of rows is
multiplied together: that is why a row's numbers do not depend on the rows beside it. With many rows there are not
enough registers for all sums of each, so that the weights, which are in the nearest cache by then, are gone through
more than once, for some of the sums each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapter_service.decoding.vectors import (
    F32,
    FLOAT,
    FLOAT32,
    GROUP,
    INT8,
    INT8_GROUPS,
    IS_WIDE,
    ITEM_SIZES,
    WIDTH,
    Emitter,
    constant,
    vector,
)

# So many that a row alone does not wait for multiply-adds before the last ones.
SUMS = 2 if IS_WIDE else 4
# Vectors that are summed up at once and still fit into registers beside weights and inputs.
_ACCUMULATORS = 16 if IS_WIDE else 8
# Outputs of several rows side by side, so that each vector of inputs is loaded once for them; AVX2 has no registers
# for more than one.
SIDE = 2 if IS_WIDE else 1
# Vectors of an output that `weighted_sum` holds at once.
CHUNK = 8
# Rows that `add_rows` goes through side by side: as many streams as memory delivers well.
STREAMS = 4
# Bytes ahead of what is multiplied that memory is asked for, into the second cache: the first has no room for so much
# beside inputs.
_AHEAD = 4096


def dot_rows(kind: int, rows: int, together: int = 1) -> Any:
    """A function for compiled code: `together` rows of weights times `rows` rows of inputs.

        dot(weights, weight_stride, scales, scale_stride, inputs, input_stride, outputs, output_stride, length)

    Addresses and strides are in bytes, `length` in numbers, a multiple of WIDTH. The float32 numbers at
    `outputs + r × output_stride`, one for each row of weights, become Σ weights × inputs of row r. A row of weights of
    INT8 is times the float32 at its `scales`, of INT8_GROUPS times those that each GROUP of them has there; of other
    kinds that address is not read.
    """

    @intrinsic
    def dot(
        _context: Any, weights: Any, weight_stride: Any, scales: Any, scale_stride: Any, inputs: Any, input_stride: Any,
        outputs: Any, output_stride: Any, length: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(*[types.intp] * 9)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _Dot(Emitter(builder), kind, rows, together, args).emit()
            return context.get_dummy_value()

        return signature, generate

    return dot


class _Dot:
    """What `dot_rows` is made of. Sums are vectors: those of the first row, one for each output, of the second, …"""

    def __init__(self, emit: Emitter, kind: int, rows: int, together: int, args: list[ir.Value]) -> None:
        weights, weight_stride, scales, scale_stride, inputs, input_stride, outputs, output_stride, length = args
        b = self._builder = emit.builder
        self._emit, self._kind, self._together = emit, kind, together
        self._weights, self._scales = (
            [b.add(begin, b.mul(stride, constant(number))) for number in range(together)]
            for begin, stride in ((weights, weight_stride), (scales, scale_stride))
        )
        self._inputs, self._outputs = (
            [b.add(begin, b.mul(stride, constant(row))) for row in range(rows)]
            for begin, stride in ((inputs, input_stride), (outputs, output_stride))
        )
        blocks = b.sdiv(length, constant(WIDTH))
        self._rounds, self._left = b.sdiv(blocks, constant(SUMS)), b.srem(blocks, constant(SUMS))

    def emit(self) -> None:
        zero, count = ir.Constant(vector(F32), [0.0] * WIDTH), len(self._inputs) * self._together
        at_once = max(1, _ACCUMULATORS // count)
        whole: list[ir.Value] = []
        for first in range(0, SUMS, at_once):
            which = range(first, min(first + at_once, SUMS))
            made = self._emit.loop(self._rounds, [zero] * (count * len(which)), partial(self._add_round, which))
            for place in range(len(which)):  # added up at once: there are no registers to keep them
                sums = made[place * count : (place + 1) * count]
                if not whole:
                    whole = self._emit.loop(self._left, sums, self._add_left)
                else:
                    whole = [self._builder.fadd(*pair) for pair in zip(whole, sums, strict=True)]
        self._store(self._emit.totals(whole))

    def _add_round(self, which: range, number: ir.Value, *sums: ir.Value) -> list[ir.Value]:
        """The blocks of some of a round's sums."""
        b, count = self._builder, len(sums) // len(which)
        begin, made = b.mul(number, constant(SUMS)), []
        for weights in self._weights:
            ahead = b.add(b.mul(begin, constant(self._bytes_of_block)), constant(_AHEAD))
            self._emit.prefetch(b.add(weights, ahead), cache=2)
        for place, own in enumerate(which):
            made += self._add_block(b.add(begin, constant(own)), sums[place * count : (place + 1) * count])
        return made

    def _add_left(self, number: ir.Value, *sums: ir.Value) -> list[ir.Value]:
        """A block behind the last whole round."""
        b = self._builder
        return self._add_block(b.add(b.mul(self._rounds, constant(SUMS)), number), sums)

    def _add_block(self, block: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        b, emit, made = self._builder, self._emit, []
        ways = zip(self._weights, self._scales, strict=True)
        weights = [_block_of(emit, self._kind, begin, scales, block) for begin, scales in ways]
        place = b.mul(block, constant(WIDTH * FLOAT))
        for row, begin in enumerate(self._inputs):
            x, own = emit.load(b.add(begin, place), FLOAT32), sums[row * self._together :]
            made += [emit.fma(weight, x, total) for weight, total in zip(weights, own, strict=False)]
        return made

    def _store(self, found: ir.Value) -> None:
        """Sums that lie as their vectors lay."""
        b, emit = self._builder, self._emit
        for row, place in enumerate(self._outputs):
            own = emit.lanes(found, range(row * self._together, (row + 1) * self._together))
            if self._kind == INT8:
                own = b.fmul(own, emit.side_by_side([emit.number(scales) for scales in self._scales]))
            emit.store(own, place)

    @property
    def _bytes_of_block(self) -> int:
        return WIDTH * ITEM_SIZES[self._kind]


def _block_of(emit: Emitter, kind: int, weights: ir.Value, scales: ir.Value, block: ir.Value) -> ir.Value:
    """A block of a row of weights, which begins at `weights`."""
    b = emit.builder
    wide = emit.load(b.add(weights, b.mul(block, constant(WIDTH * ITEM_SIZES[kind]))), kind)
    if kind != INT8_GROUPS:
        return wide
    group = b.sdiv(block, constant(GROUP // WIDTH))
    return b.fmul(wide, emit.splat(emit.number(b.add(scales, b.mul(group, constant(FLOAT))))))


def widen(kind: int) -> Any:
    """A function for compiled code: a row of weights as the float32 numbers that `dot_rows` multiplies with.

    widen(weights, scales, target, length)
    """

    @intrinsic
    def widened(_context: Any, weights: Any, scales: Any, target: Any, length: Any) -> Any:
        signature = types.void(*[types.intp] * 4)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            emit, (weights, scales, target, length) = Emitter(builder), args

            def one(block: ir.Value) -> list[ir.Value]:
                place = builder.add(target, builder.mul(block, constant(WIDTH * FLOAT)))
                emit.store(_block_of(emit, kind, weights, scales, block), place)
                return []

            emit.loop(builder.sdiv(length, constant(WIDTH)), [], one)
            return context.get_dummy_value()

        return signature, generate

    return widened


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
            emit.prefetch(b.add(from_row, constant(_AHEAD // STREAMS)), cache=2)
            total = emit.fma(factor, emit.load(from_row, kind), total)
        emit.store(total, at)
        return []

    emit.loop(b.sdiv(length, constant(WIDTH)), [], add_block)
