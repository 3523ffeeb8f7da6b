"""Products in compiled code against torch's in float64, and each row beside others against itself alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.base_models.int8 import quantized_rows
from adapter_service.decoding import products
from adapter_service.decoding.pairs import BLOCK
from adapter_service.decoding.tiles import CHUNK
from adapter_service.decoding.vectors import BFLOAT16, BFLOAT16_PAIRS, FLOAT16, FLOAT32, GROUP, INT8_GROUPS, WIDTH
from adapter_service.decoding.weights import KINDS, quantized_groups

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
FLOAT = 4


def made(rows: int, columns: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix of a kind, the scales of its rows (0 numbers where it has none), and what it stands for in float64."""
    numbers = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if dtype is torch.int8:
        matrix, scales = quantized_rows(numbers)
        return matrix, scales, matrix.double() * scales.double()[:, None]
    return numbers.to(dtype), torch.empty(0), numbers.to(dtype).double()


def multiplied(matrix: torch.Tensor, scales: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    (count, length), rows = matrix.shape, len(x)
    kind = INT8_GROUPS if scales.dim() == 2 else KINDS[matrix.dtype]
    y = torch.full((rows, count), float("nan"))
    products.multiply(
        kind, matrix.data_ptr(), scales.data_ptr() if len(scales) else 0, x.data_ptr(), length * FLOAT,
        y.data_ptr(), count * FLOAT, length, count, rows,
    )  # fmt: skip
    return y


WIDENED = """
import torch
from tests.decoding.test_products import multiplied
x, matrix = torch.randn(32, 4096), torch.randn(70, 4096).bfloat16()
found = multiplied(matrix, torch.empty(0), x)
assert torch.allclose(found, x @ matrix.float().T, atol=1e-2)
"""


def test_memory_of_widened_weights_is_there_while_it_is_read() -> None:
    """An allocator that gives memory back at once ends a process that reads it after that."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run([sys.executable, "-c", WIDENED], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


SIZES = {
    "dtype": st.sampled_from(DTYPES),
    "length": st.one_of(st.integers(1, 6 * WIDTH), st.sampled_from([576, 4 * WIDTH * 5, 3000, 7000])),
    "count": st.integers(1, 70),
    "rows": st.one_of(st.integers(1, 19), st.sampled_from([32, 45])),
    "seed": st.integers(0, 2**20),
}


GROUPED = {**SIZES, "groups": st.integers(1, 24)}
del GROUPED["dtype"], GROUPED["length"]


@given(**GROUPED)
@settings(max_examples=100, deadline=None)
def test_products_with_a_scale_for_each_group(groups: int, count: int, rows: int, seed: int) -> None:
    length = groups * GROUP
    numbers = torch.randn(count, length, generator=torch.Generator().manual_seed(seed))
    numbers[:, 0] *= 50.0  # which is a matter of its own group alone
    matrix, scales = quantized_groups(numbers)
    wide = (matrix.double().view(count, groups, GROUP) * scales.double()[..., None]).view(count, length)
    assert bool(((wide - numbers.double()).abs()[:, GROUP:] < 0.03).all())
    x = torch.randn(rows, length, generator=torch.Generator().manual_seed(seed + 1))
    found, size = multiplied(matrix, scales, x), x.double().abs() @ wide.abs().T
    assert bool(((found.double() - x.double() @ wide.T).abs() <= 2e-6 * size + 1e-30).all())
    alone = torch.cat([multiplied(matrix, scales, x[row : row + 1]) for row in range(rows)])
    assert torch.equal(found, alone)


@given(**SIZES)
@settings(max_examples=150, deadline=None)
def test_products_are_torchs(dtype: torch.dtype, length: int, count: int, rows: int, seed: int) -> None:
    matrix, scales, wide = made(count, length, dtype, seed)
    x = torch.randn(rows, length, generator=torch.Generator().manual_seed(seed + 1))
    wanted = x.double() @ wide.T
    size = x.double().abs() @ wide.abs().T  # what rounding is a share of
    assert bool(((multiplied(matrix, scales, x).double() - wanted).abs() <= 2e-6 * size + 1e-30).all())


@given(**SIZES)
@settings(max_examples=100, deadline=None)
def test_a_row_is_the_same_to_the_bit_beside_any_others(
    dtype: torch.dtype, length: int, count: int, rows: int, seed: int
) -> None:
    matrix, scales, _ = made(count, length, dtype, seed)
    x = torch.randn(rows, length, generator=torch.Generator().manual_seed(seed + 1))
    together = multiplied(matrix, scales, x)
    alone = torch.cat([multiplied(matrix, scales, x[row : row + 1]) for row in range(rows)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(count=st.integers(0, 40), length=st.integers(1, 3 * CHUNK * WIDTH), seed=st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_weighted_rows_are_added_up(dtype: torch.dtype, count: int, length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(max(count, 1), length, generator=generator).to(dtype)
    factors, sums = torch.randn(max(count, 1), generator=generator), torch.randn(length, generator=generator)
    wanted = sums.double() + 0.5 * factors[:count].double() @ matrix[:count].double()
    products.add_weighted_rows(
        KINDS[dtype], factors.data_ptr(), matrix.data_ptr(), length * matrix.element_size(), count, 0.5,
        sums.data_ptr(), length,
    )  # fmt: skip
    assert torch.allclose(sums.double(), wanted, rtol=1e-5, atol=1e-5)


def with_low_rank(kind: int, a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`y` and twice the product."""
    (rows, inputs), (rank, outputs), y = x.shape, b.shape, y.clone()
    inner = torch.full((rows, rank), float("nan"))
    products.add_low_rank(
        kind, a.data_ptr(), b.data_ptr(), rank, 2.0, x.data_ptr(), inputs * x.element_size(), inputs, y.data_ptr(),
        outputs * FLOAT, outputs, rows, inner.data_ptr(),
    )  # fmt: skip
    return y


@pytest.mark.parametrize("kind", [FLOAT32, FLOAT16, BFLOAT16, BFLOAT16_PAIRS])
@given(
    rank=st.integers(1, 70), inputs=st.integers(1, 200), outputs=st.integers(1, 200), rows=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_low_rank_products_are_added(kind: int, rank: int, inputs: int, outputs: int, rows: int, seed: int) -> None:
    """Those of rows together as those of each alone, to the bit."""
    dtype = {FLOAT32: torch.float32, FLOAT16: torch.float16}.get(kind, torch.bfloat16)
    inputs = inputs * BLOCK if kind == BFLOAT16_PAIRS else inputs
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(rank, width, generator=generator).to(dtype) for width in (inputs, outputs))
    x, y = torch.randn(rows, inputs, generator=generator), torch.randn(rows, outputs, generator=generator)
    x = x.bfloat16() if kind == BFLOAT16_PAIRS else x
    wanted = y.double() + 2.0 * (x.double() @ a.double().T) @ b.double()
    size = y.double().abs() + 2.0 * (x.double().abs() @ a.double().abs().T) @ b.double().abs()
    found = with_low_rank(kind, a, b, x, y)
    assert bool(((found.double() - wanted).abs() <= 4e-6 * size).all())
    alone = [with_low_rank(kind, a, b, x[row : row + 1], y[row : row + 1]) for row in range(rows)]
    assert torch.equal(found, torch.cat(alone))
