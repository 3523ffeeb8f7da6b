"""What threads tell one another by, for compiled code: whole numbers that each reads and writes at once; and time.

Addresses are in bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adapter_service.decoding.vectors import I64, IS_X86, constant

# Bytes of a number.
NUMBER = 8


def _address_of(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def load(_context: Any, address: Any) -> Any:
    """What is there, and with it all that was written before it was."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load_atomic(_address_of(builder, args[0]), "acquire", NUMBER)

    return types.int64(types.intp), generate


@intrinsic
def store(_context: Any, address: Any, number: Any) -> Any:
    """For those who see it, all that was written before is there, too."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        builder.store_atomic(args[1], _address_of(builder, args[0]), "release", NUMBER)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def count_up(_context: Any, address: Any) -> Any:
    """Add 1; what was there before."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, args: list[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("add", _address_of(builder, args[0]), constant(1), "acq_rel")

    return types.int64(types.intp), generate


@intrinsic
def wait_a_little(_context: Any) -> Any:
    """Leave the core to its other hardware thread for some cycles."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, _args: list[ir.Value]) -> ir.Value:
        if IS_X86:
            pause = builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=ir.FunctionType(ir.VoidType(), []))
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def cycles(_context: Any) -> Any:
    """The processor's, since some moment; 0 where it does not tell."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, _args: list[ir.Value]) -> ir.Value:
        if not IS_X86:
            return constant(0)
        function = ir.FunctionType(I64, [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=function), [])

    return types.int64(), generate
