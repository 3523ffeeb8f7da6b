"""The kernels' benchmark: what it makes of its measurements, and what it hands to llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_service.lora.adapter import Adapter, LoraConfig, LowRankPair
from benchmarks import kernels, kernels_files, kernels_sampling
from benchmarks.kernels import EXACT, INT8, LLAMA, PEFT


def test_a_prompt_is_held_against_both_peers() -> None:
    speeds = {EXACT: {1: [300.0, 310.0]}, PEFT: {1: [100.0, 100.0]}, LLAMA: {1: [150.0, 155.0]}}
    rows = list(kernels._prefill(speeds))
    assert [(row.peer, row.ratio, row.met) for row in rows] == [(PEFT, pytest.approx(3.05), None), (LLAMA, 2.0, True)]


def test_requests_together_are_held_against_both_peers_by_both_kernels() -> None:
    speeds = {name: {8: [tokens]} for name, tokens in ((EXACT, 160.0), (INT8, 200.0), (PEFT, 50.0), (LLAMA, 81.0))}
    found = {(row.measure, row.peer): row for row in kernels._together(speeds)}
    ratios = {key: row.ratio for key, row in found.items()}
    assert ratios == pytest.approx(
        {(EXACT, PEFT): 3.2, (INT8, PEFT): 4.0, (EXACT, LLAMA): 160 / 81, (INT8, LLAMA): 200 / 81}
    )
    assert {key: row.met for key, row in found.items()} == {
        (EXACT, PEFT): False, (INT8, PEFT): True, (EXACT, LLAMA): False, (INT8, LLAMA): True,
    }  # fmt: skip


def test_without_llama_cpp_there_are_the_other_rows() -> None:
    speeds = {EXACT: {8: [160.0]}, INT8: {8: [200.0]}, PEFT: {8: [50.0]}}
    assert [row.peer for row in kernels._together(speeds)] == [PEFT, PEFT]


def test_sampling_is_measured() -> None:
    (row,) = kernels_sampling.measure(torch.randn(5000))
    assert row.measure == "a token by top-p 0.9 from 5,000"
    assert row.figure > 0


def test_queries_of_llama_lie_turn_by_turn() -> None:
    """Of each head its two halves: 0 4 1 5 2 6 3 7."""
    rows = np.arange(16, dtype=np.float32)[:, None]
    found = kernels_files._interleaved(rows, heads=2)[:, 0].tolist()
    assert found == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_an_adapter_is_written_with_its_scale_in_b(tmp_path: Path) -> None:
    import gguf

    pairs = {
        f"model.layers.3.{name}": LowRankPair(torch.randn(2, 6), torch.randn(8, 2), 4.0)
        for name in ("self_attn.q_proj", "mlp.down_proj")
    }
    target = tmp_path / "adapter.gguf"
    kernels_files.write_adapter(Adapter(LoraConfig(r=2), pairs), target, "llama", {"q_proj": 2})
    reader = gguf.GGUFReader(target)
    tensors = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    assert float(reader.fields["adapter.lora.alpha"].contents()) == 0.0
    down = pairs["model.layers.3.mlp.down_proj"]
    assert torch.equal(tensors["blk.3.ffn_down.weight.lora_a"], down.a.detach())
    assert torch.equal(tensors["blk.3.ffn_down.weight.lora_b"], down.b.detach() * 4.0)
    query = pairs["model.layers.3.self_attn.q_proj"].b.detach()[[0, 2, 1, 3, 4, 6, 5, 7]] * 4.0
    assert torch.equal(tensors["blk.3.attn_q.weight.lora_b"], query)
