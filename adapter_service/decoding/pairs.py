"""Products of many rows with bfloat16 weights: two products at once, four outputs of four rows in registers.

    weights of four outputs    | block | block | …      bfloat16, two vectors long
    inputs of four rows        | block | block | …      rounded to bfloat16
    sums                       a vector of each row's each output: its lanes are added up at the end

With many rows it is computing, and not memory, that takes the time. `vdpbf16ps` (AVX512_BF16) multiplies 32 pairs and
adds them up in float32, which is twice what a multiply-add of float32 does, and nothing has to be widened. Processors
without it are given what it is made of, which gives the same up to rounding and is slow.

A row's numbers do not depend on the rows beside it: an output is summed up in one order, in whichever tile it is.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapter_service.decoding.addresses import stand_alone
from adapter_service.decoding.compiling import compiled, named
from adapter_service.decoding.vectors import (
    BF16,
    BFLOAT16,
    BFLOAT16_PAIRS,
    F32,
    FLOAT,
    FLOAT32,
    HAS_PAIRS,
    ITEM_SIZES,
    WIDTH,
    Emitter,
    constant,
    vector,
)

# Numbers in a block: lengths are multiples of it.
BLOCK = 2 * WIDTH
_ITEM = ITEM_SIZES[BFLOAT16_PAIRS]
# Outputs and rows of the largest tile.
_SIDE = 4
# Bytes that rows of inputs may take of the nearest cache; the smallest that processors have now is 32 KiB.
_FIRST_CACHE = 20 << 10
# Outputs for which a group of inputs stays there; their weights stay in the second cache for the next group.
_OUTPUTS_TOGETHER = 64


def _tile_of(rows: int, outputs: int) -> Any:
    """A function for compiled code: `outputs` rows of weights, `length` numbers each, times `rows` rows of inputs.

        tile(weights, inputs, input_stride, results, result_stride, length, ahead)

    Addresses and strides are in bytes; rows of weights lie one behind the other. Row r's float32 results are at
    `results` + r × `result_stride`, side by side. Memory is asked for one cache line of `outputs` at and behind
    `ahead`, `outputs` times `length` numbers: for too much at once the processor waits.
    """

    @intrinsic
    def tile(
        _context: Any, weights: Any, inputs: Any, input_stride: Any, results: Any, result_stride: Any, length: Any,
        ahead: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(*[types.intp] * 7)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            _emit_tile(Emitter(builder), rows, outputs, *args)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _emit_tile(
    emit: Emitter,
    rows: int,
    outputs: int,
    weights: ir.Value,
    inputs: ir.Value,
    input_stride: ir.Value,
    results: ir.Value,
    result_stride: ir.Value,
    length: ir.Value,
    ahead: ir.Value,
) -> None:
    b = emit.builder
    stride = b.mul(length, constant(_ITEM))
    of_outputs = [b.add(weights, b.mul(stride, constant(output))) for output in range(outputs)]
    of_rows = [b.add(inputs, b.mul(input_stride, constant(row))) for row in range(rows)]
    zero = ir.Constant(vector(F32), [0.0] * WIDTH)

    def add_block(block: ir.Value, *sums: ir.Value) -> list[ir.Value]:
        place = b.mul(block, constant(BLOCK * _ITEM))
        loaded = [_load_pairs(emit, b.add(start, place)) for start in of_outputs]
        emit.prefetch(b.add(ahead, b.mul(place, constant(outputs))))
        made = []
        for row, start in enumerate(of_rows):
            x = _load_pairs(emit, b.add(start, place))
            made += [_add_pairs(emit, sums[row * outputs + output], x, loaded[output]) for output in range(outputs)]
        return made

    sums = emit.loop(b.sdiv(length, constant(BLOCK)), [zero] * (rows * outputs), add_block)
    for row in range(rows):
        of_row = sums[row * outputs : (row + 1) * outputs]
        emit.store(emit.totals(of_row), b.add(results, b.mul(result_stride, constant(row))))


def _load_pairs(emit: Emitter, address: ir.Value) -> ir.Value:
    """A block, as whole numbers of 32 bits: a pair each."""
    loaded = emit.builder.load(emit.builder.inttoptr(address, vector(ir.IntType(32)).as_pointer()))
    loaded.align = _ITEM
    return loaded


def _add_pairs(emit: Emitter, total: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """`total` + x₀ × y₀ + x₁ × y₁ of each pair."""
    b = emit.builder
    if HAS_PAIRS:
        pairs = vector(BF16, BLOCK)
        function = ir.FunctionType(total.type, [total.type, pairs, pairs])
        add = b.module.declare_intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", fnty=function)
        return b.call(add, [total, b.bitcast(x, pairs), b.bitcast(y, pairs)])
    for shift in (True, False):  # a pair's first number is its lower half; each is the upper half of a float32
        total = emit.fma(_half(emit, x, shift=shift), _half(emit, y, shift=shift), total)
    return total


def _half(emit: Emitter, pairs: ir.Value, *, shift: bool) -> ir.Value:
    b = emit.builder
    bits = (
        b.shl(pairs, ir.Constant(pairs.type, [16] * WIDTH))
        if shift
        else b.and_(pairs, ir.Constant(pairs.type, [-(1 << 16)] * WIDTH))
    )
    return b.bitcast(bits, vector(F32))


@intrinsic
def _round_block(_context: Any, numbers: Any, rounded: Any) -> Any:
    """WIDTH float32 numbers at one address to bfloat16 at another, to the nearest and of two to the even one."""
    signature = types.void(types.intp, types.intp)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        loaded = Emitter(builder).load(args[0], FLOAT32)
        narrow = builder.fptrunc(loaded, vector(BF16)) if HAS_PAIRS else _upper_halves(builder, loaded)
        stored = builder.store(narrow, builder.inttoptr(args[1], narrow.type.as_pointer()))
        stored.align = ITEM_SIZES[BFLOAT16]
        return context.get_dummy_value()

    return signature, generate


def _upper_halves(builder: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    """bfloat16 as whole numbers: a processor without them would be made to call a function that is not there."""
    wide = vector(ir.IntType(32))

    def all_of(number: int) -> ir.Constant:
        return ir.Constant(wide, [number] * WIDTH)

    bits = builder.bitcast(numbers, wide)
    even = builder.and_(builder.lshr(bits, all_of(16)), all_of(1))
    rounded = builder.lshr(builder.add(bits, builder.add(even, all_of(0x7FFF))), all_of(16))
    is_none = builder.fcmp_unordered("uno", numbers, numbers)
    return builder.trunc(builder.select(is_none, all_of(0x7FC0), rounded), vector(ir.IntType(16)))


@compiled
def round_to_pairs(numbers: int, rounded: int, length: int) -> None:
    """`length` float32 numbers, a multiple of WIDTH, to bfloat16."""
    stand_alone()
    for place in range(0, length, WIDTH):
        _round_block(numbers + place * FLOAT, rounded + place * _ITEM)


def _strip_of(outputs: int) -> Any:
    """`outputs` outputs of any number of rows."""
    tile_4, tile_2, tile_1 = (_tile_of(rows, outputs) for rows in (4, 2, 1))

    @compiled
    @named("strip", outputs)
    def strip(weights: int, inputs: int, input_stride: int, results: int, stride: int, length: int, rows: int) -> None:
        ahead, row = weights + 2 * outputs * length * _ITEM, 0  # what the strip after the next one begins with
        while row + 4 <= rows:
            x, y = inputs + row * input_stride, results + row * stride
            tile_4(weights, x, input_stride, y, stride, length, ahead)
            ahead += BLOCK * _ITEM
            row += 4
        if row + 2 <= rows:
            x, y = inputs + row * input_stride, results + row * stride
            tile_2(weights, x, input_stride, y, stride, length, ahead)
            ahead += BLOCK * _ITEM
            row += 2
        if row < rows:
            x, y = inputs + row * input_stride, results + row * stride
            tile_1(weights, x, input_stride, y, stride, length, ahead)

    return strip


_strip_of_4, _strip_of_1 = _strip_of(_SIDE), _strip_of(1)


@compiled
def multiply_pairs(
    matrix: int, inputs: int, input_stride: int, outputs: int, output_stride: int, length: int, count: int, rows: int
) -> None:
    """`count` outputs (rows, count), float32, of `rows` rows of inputs (rows, length) in bfloat16."""
    stand_alone()
    together = max(_SIDE, _FIRST_CACHE // (length * _ITEM) // _SIDE * _SIDE)
    for first in range(0, count, _OUTPUTS_TOGETHER):
        end = min(first + _OUTPUTS_TOGETHER, count)
        for row in range(0, rows, together):
            x, y, left = inputs + row * input_stride, outputs + row * output_stride, min(together, rows - row)
            output = first
            while output + _SIDE <= end:
                weights = matrix + output * length * _ITEM
                _strip_of_4(weights, x, input_stride, y + output * FLOAT, output_stride, length, left)
                output += _SIDE
            while output < end:
                weights = matrix + output * length * _ITEM
                _strip_of_1(weights, x, input_stride, y + output * FLOAT, output_stride, length, left)
                output += 1
