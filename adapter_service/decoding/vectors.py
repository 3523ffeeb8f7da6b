"""Vectors in LLVM's words, as wide as the processor's, and the kinds of numbers that are widened into them.

numba compiles Python; vectors it has not. LLVM makes of these what the processor has: AVX-512, AVX2 with F16C, NEON.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

import llvmlite.binding
import numba
from llvmlite import ir

# Kinds of numbers in memory; of `INT8` each row has a scale, of `INT8_GROUPS` every `GROUP` of a row's numbers have.
# `BFLOAT16_PAIRS` are bfloat16 whose products are made in pairs, with inputs that are bfloat16 too.
FLOAT32, BFLOAT16, FLOAT16, INT8, INT8_GROUPS, BFLOAT16_PAIRS = range(6)
ITEM_SIZES = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2, INT8: 1, INT8_GROUPS: 1, BFLOAT16_PAIRS: 2}
GROUP = 64
# Bytes of what steps compute in.
FLOAT = ITEM_SIZES[FLOAT32]


def compiled_for() -> set[str]:
    """What the processor can do that numba compiles for, in LLVM's words: the host, or as the user has set."""
    if (wanted := numba.config.CPU_FEATURES) is not None:
        return {feature.removeprefix("+") for feature in wanted.split(",") if feature.startswith("+")}
    found = {name for name, is_there in llvmlite.binding.get_host_cpu_features().items() if is_there}
    return found if numba.config.ENABLE_AVX else {name for name in found if not name.startswith("avx")}


IS_X86 = platform.machine().lower() in {"x86_64", "amd64", "i686"}
_FEATURES = compiled_for()
IS_WIDE = "avx512f" in _FEATURES
# Whether the processor multiplies and adds pairs of bfloat16 at once.
HAS_PAIRS = {"avx512f", "avx512bw", "avx512bf16"} <= _FEATURES
# Numbers in a vector. Shorter ones than the processor's are slower, longer ones are cut by LLVM.
WIDTH = 16 if IS_WIDE else 8

F32, I64 = ir.FloatType(), ir.IntType(64)
_ELEMENTS: dict[int, ir.Type] = {
    FLOAT32: F32,
    BFLOAT16: ir.IntType(16),
    FLOAT16: ir.HalfType(),
    INT8: ir.IntType(8),
    INT8_GROUPS: ir.IntType(8),
}


def constant(value: int) -> ir.Constant:
    """An address, a count or a stride."""
    return ir.Constant(I64, value)


def vector(element: ir.Type, width: int = WIDTH) -> ir.VectorType:
    return ir.VectorType(element, width)


class _BFloatType(ir.types.Type):  # type: ignore[misc]
    """What llvmlite has no word for."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self))

    def __hash__(self) -> int:
        return hash(type(self))


BF16 = _BFloatType()


class Emitter:
    """Puts instructions into the function that a builder builds."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def load(self, address: ir.Value, kind: int, *, width: int = WIDTH) -> ir.Value:
        """`width` numbers of a kind, as float32."""
        b, element = self.builder, _ELEMENTS[kind]
        loaded = b.load(b.inttoptr(address, vector(element, width).as_pointer()))
        loaded.align = ITEM_SIZES[kind]
        wide, wide_int = vector(F32, width), vector(ir.IntType(32), width)
        if kind == BFLOAT16:  # the upper half of a float32
            bits = b.shl(b.zext(loaded, wide_int), ir.Constant(wide_int, [16] * width))
            return b.bitcast(bits, wide)
        if kind == FLOAT16:
            return b.fpext(loaded, wide)
        if kind in {INT8, INT8_GROUPS}:
            return b.sitofp(b.sext(loaded, wide_int), wide)
        return loaded

    def number(self, address: ir.Value) -> ir.Value:
        """One float32."""
        loaded = self.builder.load(self.builder.inttoptr(address, F32.as_pointer()))
        loaded.align = FLOAT
        return loaded

    def store(self, value: ir.Value, address: ir.Value) -> None:
        stored = self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()))
        stored.align = FLOAT

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """x × y + z, rounded once."""
        function = ir.FunctionType(x.type, [x.type] * 3)
        fma = self.builder.module.declare_intrinsic(f"llvm.fma.v{WIDTH}f32", fnty=function)
        return self.builder.call(fma, [x, y, z])

    def prefetch(self, address: ir.Value, cache: int = 1) -> None:
        """Have memory deliver what is at `address`, which may be no memory at all, to the first or second cache."""
        b, i32, pointer = self.builder, ir.IntType(32), ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        fetch = b.module.declare_intrinsic("llvm.prefetch.p0", fnty=function)
        reading, of_data, locality = (ir.Constant(i32, number) for number in (0, 1, 4 - cache))
        b.call(fetch, [b.inttoptr(address, pointer), reading, locality, of_data])

    def splat(self, number: ir.Value) -> ir.Value:
        b, wide = self.builder, vector(F32)
        first = b.insert_element(ir.Constant(wide, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        return self._chosen(first, None, [0] * WIDTH)

    def totals(self, summed: Sequence[ir.Value]) -> ir.Value:
        """The sum of each vector's numbers, halves first, side by side; of so many vectors as a power of two."""
        parts, size = list(summed), WIDTH  # each part has pieces of so many numbers, of one vector each
        while size > 1:
            half, middle = size // 2, len(parts) // 2
            pairs = list(zip(parts[:middle], parts[middle:], strict=True)) if middle else [(parts[0], None)]
            parts, size = [self._halves_added(x, y, half) for x, y in pairs], half
        return parts[0]

    def lanes(self, numbers: ir.Value, which: Sequence[int]) -> ir.Value:
        """Some of a vector's numbers."""
        return self._chosen(numbers, None, which)

    def side_by_side(self, numbers: Sequence[ir.Value]) -> ir.Value:
        """A vector of single numbers."""
        whole = ir.Constant(vector(F32, len(numbers)), ir.Undefined)
        for place, number in enumerate(numbers):
            whole = self.builder.insert_element(whole, number, ir.Constant(ir.IntType(32), place))
        return whole

    def _halves_added(self, x: ir.Value, y: ir.Value | None, half: int) -> ir.Value:
        """The halves of each piece added up: of one vector, or of two, whose pieces take turns."""
        lanes = x.type.count
        of_both = (0,) if y is None else (0, lanes)
        starts = [piece + vector_start for piece in range(0, lanes, 2 * half) for vector_start in of_both]
        lower, upper = ([start + own + lane for start in starts for lane in range(half)] for own in (0, half))
        return self.builder.fadd(self._chosen(x, y, lower), self._chosen(x, y, upper))

    def _chosen(self, x: ir.Value, y: ir.Value | None, which: Sequence[int]) -> ir.Value:
        """Numbers of `x` and, behind those, of `y`."""
        other = ir.Constant(x.type, ir.Undefined) if y is None else y
        places = ir.Constant(vector(ir.IntType(32), len(which)), list(which))
        return self.builder.shuffle_vector(x, other, places)

    def loop(self, count: ir.Value, carried: list[ir.Value], body: Callable[..., list[ir.Value]]) -> list[ir.Value]:
        """Run `body(number, *carried)` for 0, 1, … below `count`; what it returns is carried on."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(name) for name in ("head", "inside", "after"))
        b.branch(head)
        b.position_at_end(head)
        number = b.phi(I64)
        number.add_incoming(constant(0), before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        b.cbranch(b.icmp_signed("<", number, count), inside, after)
        b.position_at_end(inside)
        results = body(number, *phis)
        number.add_incoming(b.add(number, constant(1)), b.block)
        for phi, result in zip(phis, results, strict=True):
            phi.add_incoming(result, b.block)
        b.branch(head)
        b.position_at_end(after)
        return list(phis)
