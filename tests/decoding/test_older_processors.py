"""What is compiled for a processor that has no vectors of 512 bits and multiplies no pairs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

HASWELL = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+xsave"
PROGRAM = """
import torch
from adapter_service.decoding import pairs, products, vectors
from tests.decoding.test_products import multiplied
assert (vectors.IS_WIDE, vectors.HAS_PAIRS, vectors.WIDTH) == (False, False, 8)
numbers = torch.cat([torch.randn(5, 64), torch.tensor([[float("nan"), float("inf"), 1 + 2**-8, 0.0] * 16])])
rounded = torch.empty(6, 64, dtype=torch.bfloat16)
pairs.round_to_pairs(numbers.data_ptr(), rounded.data_ptr(), numbers.numel())
assert torch.equal(rounded.nan_to_num(7.0), numbers.bfloat16().nan_to_num(7.0))
x, matrix, found = rounded[:5].clone(), torch.randn(9, 64).bfloat16(), torch.empty(5, 9)
products.multiply(
    vectors.BFLOAT16_PAIRS, matrix.data_ptr(), 0, x.data_ptr(), 128, found.data_ptr(), 36, 64, 9, 5
)
assert torch.allclose(found, x.float() @ matrix.float().T, atol=1e-4)
for dtype in (torch.bfloat16, torch.float16):
    rows, matrix, unscaled = torch.randn(40, 100), torch.randn(35, 100).to(dtype), torch.empty(0)
    together = multiplied(matrix, unscaled, rows)
    assert torch.allclose(together, rows @ matrix.float().T, atol=1e-4)
    for count in (1, 2, 3, 9):
        assert torch.equal(multiplied(matrix, unscaled, rows[:count]), together[:count])
code = "".join(pairs.round_to_pairs.inspect_asm().values())
assert "bf16" not in code and "__trunc" not in code, code
print("as it should be")
"""


@pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="its code runs on x86 alone")
def test_it_runs_without_functions_that_are_not_there(tmp_path: object) -> None:
    """LLVM makes a call of what a processor has not, and a process ends in one that nothing answers."""
    settings = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL, "NUMBA_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "as it should be"), ran.stderr[-2000:]
