"""The innermost loops as explicit vectors: what decides how fast a step is.

A row of weights is read once, from the front to the back, and multiplied with all rows of inputs meanwhile:

    weights of one output    | block 0 | block 1 | block 2 | block 3 | block 4 | …     widened to float32
    sums of each input row      sum 0     sum 1     sum 2     sum 3     sum 0    …     a vector each

Blocks are as long as a vector. Every one of the four sums adds up its own blocks in order, and they are added in one
order at the end, whatever number of rows is multiplied together: that is why a row's numbers do not depend on the rows
beside it. With many rows there are not enough registers for four sums of each, so that the weights, which are in the
nearest cache by then, are gone through more than once.

numba compiles Python; vectors it has not, so that these are written in LLVM's words, and LLVM makes of them what the
processor has: AVX-512, AVX2 with F16C, NEON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16, INT8 = range(4)
ITEM_SIZES = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2, INT8: 1}
# Bytes of what steps compute in.
FLOAT = ITEM_SIZES[FLOAT32]


def _host_features() -> dict[str, bool]:
    return dict(llvmlite.binding.get_host_cpu_features())


_WIDE = _host_features().get("avx512f", False)
# Numbers in a vector. Shorter ones than the processor's are slower, longer ones are cut by LLVM.
WIDTH = 16 if _WIDE else 8
SUMS = 4
# Vectors that are summed up at once and still fit into registers beside weights and inputs.
_ACCUMULATORS = 16 if _WIDE else 8
# Vectors of an output that `weighted_sum` holds at once.
CHUNK = 8
# Rows that `add_rows` goes through side by side: as many streams as memory delivers well.
STREAMS = 4

# Bytes ahead of what is multiplied that memory is asked for.
_AHEAD = 1024

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_ELEMENTS: dict[int, ir.Type] = {
    FLOAT32: _F32,
    BFLOAT16: ir.IntType(16),
    FLOAT16: ir.HalfType(),
    INT8: ir.IntType(8),
}


def _int(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _vector(element: ir.Type, width: int = WIDTH) -> ir.VectorType:
    return ir.VectorType(element, width)


class _Emitter:
    """LLVM instructions that several of the loops want."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def load(self, address: ir.Value, kind: int, *, width: int = WIDTH) -> ir.Value:
        """`width` numbers of a kind, as float32."""
        b, element = self.builder, _ELEMENTS[kind]
        loaded = b.load(b.inttoptr(address, _vector(element, width).as_pointer()))
        loaded.align = ITEM_SIZES[kind]
        wide, wide_int = _vector(_F32, width), _vector(ir.IntType(32), width)
        if kind == BFLOAT16:  # the upper half of a float32
            bits = b.shl(b.zext(loaded, wide_int), ir.Constant(wide_int, [16] * width))
            return b.bitcast(bits, wide)
        if kind == FLOAT16:
            return b.fpext(loaded, wide)
        if kind == INT8:
            return b.sitofp(b.sext(loaded, wide_int), wide)
        return loaded

    def number(self, address: ir.Value) -> ir.Value:
        """One float32."""
        loaded = self.builder.load(self.builder.inttoptr(address, _F32.as_pointer()))
        loaded.align = FLOAT
        return loaded

    def store(self, value: ir.Value, address: ir.Value) -> None:
        stored = self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()))
        stored.align = 4

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x × y + z, rounded once."""
        function = ir.FunctionType(x.type, [x.type] * 3)
        fma = self.builder.module.declare_intrinsic(f"llvm.fma.v{WIDTH}f32", fnty=function)
        return self.builder.call(fma, [x, y, z])

    def prefetch(self, address: ir.Value) -> None:
        """Have memory deliver what is at `address`, which may be no memory at all."""
        b, i32, pointer = self.builder, ir.IntType(32), ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        fetch = b.module.declare_intrinsic("llvm.prefetch.p0", fnty=function)
        b.call(fetch, [b.inttoptr(address, pointer), *(ir.Constant(i32, number) for number in (0, 3, 1))])

    def splat(self, number: ir.Value) -> ir.Value:
        b, wide = self.builder, _vector(_F32)
        first = b.insert_element(ir.Constant(wide, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(_vector(ir.IntType(32)), [0] * WIDTH)
        return b.shuffle_vector(first, ir.Constant(wide, ir.Undefined), lanes)

    def total(self, vector: ir.Value) -> ir.Value:
        """The sum of a vector's numbers, halves first."""
        b, width = self.builder, WIDTH
        while width > 1:
            width //= 2
            undefined = ir.Constant(vector.type, ir.Undefined)
            halves = [
                b.shuffle_vector(vector, undefined, ir.Constant(_vector(ir.IntType(32), width), lanes))
                for lanes in (list(range(width)), list(range(width, 2 * width)))
            ]
            vector = b.fadd(*halves)
        return b.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def loop(self, count: ir.Value, carried: list[ir.Value], body: Callable[..., list[ir.Value]]) -> list[ir.Value]:
        """Run `body(number, *carried)` for 0, 1, … below `count`; what it returns is carried on."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        number = b.phi(_I64)
        number.add_incoming(_int(0), before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        b.cbranch(b.icmp_signed("<", number, count), inside, after)
        b.position_at_end(inside)
        results = body(number, *phis)
        number.add_incoming(b.add(number, _int(1)), b.block)
        for phi, result in zip(phis, results, strict=True):
            phi.add_incoming(result, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(phis)


def dot_rows(kind: int, rows: int) -> Any:
    """A function for compiled code: one row of weights times `rows` rows of inputs.

        dot(weights, inputs, input_stride, outputs, output_stride, length, scale)

    Addresses and strides are in bytes, `length` in numbers, a multiple of WIDTH. Output r, a float32 at
    `outputs + r × output_stride`, becomes `scale` × Σ weights × inputs of row r.
    """

    @intrinsic
    def dot(
        _context: Any, weights: Any, inputs: Any, input_stride: Any, outputs: Any, output_stride: Any, length: Any,
        scale: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(*[types.intp] * 6, types.float32)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_dot(_Emitter(builder), kind, rows, *args)
            return context.get_dummy_value()

        return signature, generate

    return dot


def _emit_dot(
    emit: _Emitter,
    kind: int,
    rows: int,
    weights: ir.Value,
    inputs: ir.Value,
    input_stride: ir.Value,
    outputs: ir.Value,
    output_stride: ir.Value,
    length: ir.Value,
    scale: ir.Value,
) -> None:
    b = emit.builder
    bytes_of_block, bytes_of_inputs = WIDTH * ITEM_SIZES[kind], WIDTH * 4
    blocks = b.sdiv(length, _int(WIDTH))
    rounds, left = b.sdiv(blocks, _int(SUMS)), b.srem(blocks, _int(SUMS))
    row_starts = [b.add(inputs, b.mul(input_stride, _int(row))) for row in range(rows)]
    zero = ir.Constant(_vector(_F32), [0.0] * WIDTH)
    together = max(1, _ACCUMULATORS // rows)
    passes = [range(first, min(first + together, SUMS)) for first in range(0, SUMS, together)]
    of_sum: list[list[ir.Value]] = []  # of each of the four, those of the rows

    def add_block(block: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        weight = emit.load(b.add(weights, b.mul(block, _int(bytes_of_block))), kind)
        place = b.mul(block, _int(bytes_of_inputs))
        loaded = (emit.load(b.add(start, place), FLOAT32) for start in row_starts)
        return [emit.fma(weight, x, total) for x, total in zip(loaded, sums, strict=True)]

    for which in passes:

        def one_round(number: ir.Value, *sums: ir.Value, which: range = which) -> list[ir.Value]:
            first, made = b.mul(number, _int(SUMS)), []
            emit.prefetch(b.add(weights, b.add(b.mul(first, _int(bytes_of_block)), _int(_AHEAD))))
            for place, own in enumerate(which):
                made += add_block(b.add(first, _int(own)), list(sums[place * rows : (place + 1) * rows]))
            return made

        sums = emit.loop(rounds, [zero] * (rows * len(which)), one_round)
        of_sum += [sums[place * rows : (place + 1) * rows] for place in range(len(which))]

    first_left = b.mul(rounds, _int(SUMS))
    of_sum[0] = emit.loop(left, of_sum[0], lambda number, *sums: add_block(b.add(first_left, number), list(sums)))
    for row in range(rows):
        sums = [of_all[row] for of_all in of_sum]
        while len(sums) > 1:  # halves of them, as halves of a vector
            sums = [b.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        whole = emit.total(sums[0])
        emit.store(b.fmul(whole, scale), b.add(outputs, b.mul(output_stride, _int(row))))


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
            _emit_weighted_sum(_Emitter(builder), kind, vectors, *args)
            return context.get_dummy_value()

        return signature, generate

    return weigh


def _emit_weighted_sum(
    emit: _Emitter,
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
    places = [b.add(sums, _int(number * WIDTH * 4)) for number in range(vectors)]
    begun = [emit.load(place, FLOAT32) for place in places]

    def add_row(number: ir.Value, *totals: ir.Value) -> list[ir.Value]:
        wide = emit.splat(b.fmul(emit.number(b.add(factors, b.mul(number, _int(FLOAT)))), scale))
        start = b.add(matrix, b.mul(number, stride))
        return [
            emit.fma(wide, emit.load(b.add(start, _int(place * WIDTH * ITEM_SIZES[kind])), kind), total)
            for place, total in enumerate(totals)
        ]

    for place, total in zip(places, emit.loop(count, begun, add_row), strict=True):
        emit.store(total, place)


@intrinsic
def stand_alone(_context: Any) -> Any:
    """Keep LLVM from copying the function that calls this into its callers: compiling would take longer."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, _args: list[ir.Value]) -> ir.Value:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def add_rows(rows: int) -> Any:
    """A function for compiled code: float32 rows, each times a number of its own, added to others from front to back.

        add(factors, matrix, stride, scale, sums, length)

    As `weighted_sum` of `rows` rows; it reads each row in one go, where that one reads a piece of every row. `length`
    is in numbers, a multiple of WIDTH.
    """

    @intrinsic
    def add(_context: Any, factors: Any, matrix: Any, stride: Any, scale: Any, sums: Any, length: Any) -> Any:
        signature = types.void(types.intp, types.intp, types.intp, types.float32, types.intp, types.intp)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_add_rows(_Emitter(builder), rows, *args)
            return context.get_dummy_value()

        return signature, generate

    return add


def _emit_add_rows(
    emit: _Emitter,
    rows: int,
    factors: ir.Value,
    matrix: ir.Value,
    stride: ir.Value,
    scale: ir.Value,
    sums: ir.Value,
    length: ir.Value,
) -> None:
    b = emit.builder
    starts = [b.add(matrix, b.mul(stride, _int(row))) for row in range(rows)]
    wide = [emit.splat(b.fmul(emit.number(b.add(factors, _int(row * FLOAT))), scale)) for row in range(rows)]

    def add_block(number: ir.Value) -> list[ir.Value]:
        place = b.mul(number, _int(WIDTH * FLOAT))
        at = b.add(sums, place)
        total = emit.load(at, FLOAT32)
        for start, factor in zip(starts, wide, strict=True):
            from_row = b.add(start, place)
            emit.prefetch(b.add(from_row, _int(_AHEAD // STREAMS)))
            total = emit.fma(factor, emit.load(from_row, FLOAT32), total)
        emit.store(total, at)
        return []

    emit.loop(b.sdiv(length, _int(WIDTH)), [], add_block)


def number_of(kind: int) -> Any:
    """A function for compiled code: `number(address)`, one number of a kind as float32."""

    @intrinsic
    def number(_context: Any, address: Any) -> Any:
        signature = types.float32(types.intp)

        def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            loaded = _Emitter(builder).load(args[0], kind, width=1)
            return builder.extract_element(loaded, ir.Constant(ir.IntType(32), 0))

        return signature, generate

    return number


def _numbers_at(number: Any, element: ir.Type) -> Any:
    @intrinsic
    def numbers_at(_context: Any, address: Any) -> Any:
        signature = types.CPointer(number)(types.intp)

        def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            return builder.inttoptr(args[0], element.as_pointer())

        return signature, generate

    return numbers_at


# What is at an address, for `numba.carray`: float32, its bits, and numbers of 16 bits.
floats_at = _numbers_at(types.float32, _F32)
bits_at = _numbers_at(types.uint32, ir.IntType(32))
halves_at = _numbers_at(types.uint16, ir.IntType(16))


@intrinsic
def float_of_bits(_context: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""
    signature = types.float32(types.int32)

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.bitcast(args[0], _F32)

    return signature, generate
