"""Adapters as GGUF files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapter_service.backends import gguf_adapter
from adapter_service.errors import AdapterFormatError
from adapter_service.lora.adapter import LowRankPair

CONFIG = SimpleNamespace(num_attention_heads=2, num_key_value_heads=1)


def pair() -> LowRankPair:
    return LowRankPair(torch.randn(2, 6), torch.randn(8, 2), 4.0)


def written(folder: Path, pairs: dict[str, LowRankPair], architecture: str) -> dict[str, torch.Tensor]:
    import gguf

    target = folder / "adapter.gguf"
    gguf_adapter.write_gguf_adapter(pairs, target, architecture, CONFIG)
    reader = gguf.GGUFReader(target)
    assert float(reader.fields["adapter.lora.alpha"].contents()) == 0.0
    assert [path.name for path in folder.iterdir()] == ["adapter.gguf"]
    return {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}


def test_queries_of_llama_lie_turn_by_turn() -> None:
    """Of each head its two halves: 0 4 1 5 2 6 3 7."""
    rows = np.arange(16, dtype=np.float32)[:, None]
    found = gguf_adapter._interleaved(rows, heads=2)[:, 0].tolist()
    assert found == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_an_adapter_is_written_with_its_scale_in_b(tmp_path: Path) -> None:
    query, down = pair(), pair()
    pairs = {"model.layers.3.self_attn.q_proj": query, "model.layers.3.mlp.down_proj": down}
    tensors = written(tmp_path, pairs, "llama")
    assert torch.equal(tensors["blk.3.ffn_down.weight.lora_a"], down.a.detach())
    assert torch.equal(tensors["blk.3.ffn_down.weight.lora_b"], down.b.detach() * 4.0)
    turned = query.b.detach()[[0, 2, 1, 3, 4, 6, 5, 7]] * 4.0
    assert torch.equal(tensors["blk.3.attn_q.weight.lora_b"], turned)


def test_other_architectures_have_their_queries_as_they_are(tmp_path: Path) -> None:
    query = pair()
    tensors = written(tmp_path, {"model.layers.0.self_attn.q_proj": query}, "gemma3")
    assert torch.equal(tensors["blk.0.attn_q.weight.lora_b"], query.b.detach() * 4.0)


@pytest.mark.parametrize("layer", ["lm_head", "model.layers.0.self_attn.qkv_proj", "model.layers.x.mlp.up_proj"])
def test_a_layer_without_a_name_there_is_refused(tmp_path: Path, layer: str) -> None:
    with pytest.raises(AdapterFormatError, match=f"changes '{layer}'"):
        gguf_adapter.write_gguf_adapter({layer: pair()}, tmp_path / "a.gguf", "llama", CONFIG)
    assert not (tmp_path / "a.gguf").exists()
