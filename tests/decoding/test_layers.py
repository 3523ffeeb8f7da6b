"""What a step computes between the products, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.decoding import layers
from adapter_service.decoding.weights import KINDS


def test_exponentials_are_within_two_units_of_the_last_place() -> None:
    x = np.concatenate([np.linspace(-87, 88, 50_001), np.linspace(-1, 1, 10_001)]).astype(np.float32)
    found = np.array([layers.exp32(number) for number in x], np.float32)
    wanted = np.exp(x.astype(np.float64))
    unit = 2.0 ** (np.floor(np.log2(wanted)) - 23)  # in float64: what is that small may be flushed to zero in float32
    assert np.all(np.abs(found - wanted) <= 2 * unit)
    assert layers.exp32(np.float32(-1000)) < 1e-37
    assert np.isfinite(layers.exp32(np.float32(1000)))


@given(length=st.integers(1, 300), seed=st.integers(0, 2**20))
@settings(max_examples=50, deadline=None)
def test_norms_are_torchs(length: int, seed: int) -> None:
    x, scale = torch.randn(2, length, generator=torch.Generator().manual_seed(seed))
    wanted = torch.nn.functional.rms_norm(x.double(), (length,), scale.double(), eps=1e-5)
    y = torch.empty(length)
    layers.norm(x.data_ptr(), scale.data_ptr(), 1e-5, y.data_ptr(), length)
    assert torch.allclose(y.double(), wanted, rtol=1e-5, atol=1e-6)
    layers.norm(x.data_ptr(), scale.data_ptr(), 1e-5, x.data_ptr(), length)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (layers.SILU, torch.nn.functional.silu),
        (layers.GELU_TANH, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ],
)
def test_activations_are_torchs(kind: int, function: object) -> None:
    gate, up = torch.linspace(-100, 100, 4001), torch.randn(4001)
    wanted = function(gate.double()) * up.double()  # type: ignore[operator]
    layers.activate(kind, gate.data_ptr(), up.data_ptr(), len(gate))
    assert torch.allclose(gate.double(), wanted, rtol=1e-5, atol=1e-5)


def test_keys_are_kept_as_torch_rounds_them() -> None:
    """Also halfway between two numbers, and beyond the largest."""
    inf = float("inf")
    edges = [1.00390625, 1.01171875, -1.00390625, 3.4e38, 1e-40, 0.0, -0.0, inf, -inf]
    x = torch.cat([torch.randn(500), torch.tensor(edges)])
    heads = x[:500].view(5, 100)
    cache = torch.zeros(5, 8, 100, dtype=torch.bfloat16)
    layers.keep(KINDS[torch.bfloat16], 5, 100, heads.data_ptr(), cache.data_ptr(), 8 * 100 * 2, 3)
    assert torch.equal(cache[:, 3], heads.bfloat16())
    assert torch.equal(cache[:, 4], torch.zeros(5, 100, dtype=torch.bfloat16))
    edge, kept = x[500:].clone(), torch.zeros(9, dtype=torch.bfloat16)
    layers.keep(KINDS[torch.bfloat16], 1, 9, edge.data_ptr(), kept.data_ptr(), 0, 0)
    assert torch.equal(kept, edge.bfloat16())
    # Of what is no number every kind, of which rounding would make zeros and infinities.
    none = torch.tensor([0x7FFFFFFF, 0x7F800001, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    layers.keep(KINDS[torch.bfloat16], 1, 4, none.data_ptr(), kept.data_ptr(), 0, 0)
    assert kept[:4].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    groups=st.integers(1, 3),
    together=st.integers(1, 5),
    size=st.sampled_from([4, 20, 64, 256]),
    end=st.integers(1, 300),
    seen=st.integers(1, 300),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=50, deadline=None)
def test_attention_is_torchs(
    dtype: torch.dtype, groups: int, together: int, size: int, end: int, seen: int, seed: int
) -> None:
    generator, first = torch.Generator().manual_seed(seed), max(0, end - seen)
    keys, values = torch.randn(2, groups, 300, size, generator=generator).to(dtype)
    query = torch.randn(groups * together, size, generator=generator)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.double().view(groups, together, size),
        keys[:, first:end].double(),
        values[:, first:end].double(),
        scale=0.3,
    )
    scores, attended = torch.empty(together * end), torch.empty_like(query)
    for group, own in enumerate(range(0, groups * together, together)):
        layers.attend(
            KINDS[dtype], together, size, query[own].data_ptr(), keys[group].data_ptr(), values[group].data_ptr(),
            first, end, 0.3, scores.data_ptr(), attended[own].data_ptr(),
        )  # fmt: skip
    assert torch.allclose(attended.double().view_as(wanted), wanted, rtol=1e-4, atol=1e-4)
