"""Numbers at addresses, for compiled code: one of a kind, or what `numba.carray` makes an array of."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapter_service.decoding.vectors import F32, Emitter


def number_of(kind: int) -> Any:
    """A function for compiled code: `number(address)`, one number of a kind as float32."""

    @intrinsic
    def number(_context: Any, address: Any) -> Any:
        signature = types.float32(types.intp)

        def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
            loaded = Emitter(builder).load(args[0], kind, width=1)
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
floats_at = _numbers_at(types.float32, F32)
bits_at = _numbers_at(types.uint32, ir.IntType(32))
halves_at = _numbers_at(types.uint16, ir.IntType(16))


@intrinsic
def float_of_bits(_context: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""
    signature = types.float32(types.int32)

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.bitcast(args[0], F32)

    return signature, generate


@intrinsic
def stand_alone(_context: Any) -> Any:
    """Keep LLVM from copying the function that calls this into its callers: compiling would take longer."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, _args: list[ir.Value]) -> ir.Value:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate
