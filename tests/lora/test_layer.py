"""The adapter is chosen by the call, and leaves no trace."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapter_service.base_models.int8 import quantize_linears
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import LowRankLinear, install, using
from tests.lora.conftest import MakeAdapter, logits


def test_the_base_stays_the_same_to_the_last_bit(model: Any, tokens: torch.Tensor) -> None:
    before = logits(model, tokens)
    install(model, keep=model.get_output_embeddings())
    assert torch.equal(logits(model, tokens), before)


def test_every_linear_layer_but_the_head_has_its_place(layers: dict[str, LowRankLinear], model: Any) -> None:
    assert len(layers) == 2 * 7
    assert type(model.get_output_embeddings()) is nn.Linear


def test_installing_twice_finds_what_is_there(layers: dict[str, LowRankLinear], model: Any) -> None:
    again = install(model, keep=model.get_output_embeddings())
    assert again.keys() == layers.keys()
    assert all(again[path] is layers[path] for path in layers)
    assert sum(isinstance(module, LowRankLinear) for module in model.modules()) == len(layers)


def test_a_layer_that_is_called_linear_gets_its_place_too() -> None:
    model = nn.ModuleDict({"block": nn.ModuleDict({"linear": nn.Linear(3, 3)})})
    assert list(install(model)) == ["block.linear"]
    assert list(install(model)) == ["block.linear"]


def test_an_adapter_changes_the_answer_and_leaves_no_trace(
    model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor
) -> None:
    base = logits(model, tokens)
    with using(make_adapter()):
        assert not torch.allclose(logits(model, tokens), base, atol=0.1)
    assert torch.equal(logits(model, tokens), base)


def test_a_fresh_adapter_answers_as_the_base(
    model: Any, layers: dict[str, LowRankLinear], tokens: torch.Tensor
) -> None:
    base = logits(model, tokens)
    with using(Adapter.fresh(LoraConfig(), layers, seed=0)):
        assert torch.equal(logits(model, tokens), base)


def test_no_adapter_changes_another(model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor) -> None:
    first, second = make_adapter(seed=1), make_adapter(seed=2)
    with using(first):
        before = logits(model, tokens)
    with using(second):
        logits(model, tokens)
    with using(first):
        assert torch.equal(logits(model, tokens), before)


def test_an_inner_use_ends_with_its_block(model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor) -> None:
    base, outer = logits(model, tokens), make_adapter(seed=1)
    with using(outer):
        before = logits(model, tokens)
        with using(None):
            assert torch.equal(logits(model, tokens), base)
        with pytest.raises(ValueError, match="in between"), using(make_adapter(seed=2)):
            raise ValueError("in between")
        assert torch.equal(logits(model, tokens), before)


def test_threads_use_different_adapters_at_once(model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor) -> None:
    adapters = [make_adapter(seed=1), make_adapter(seed=2), None]
    alone = []
    for adapter in adapters:
        with using(adapter):
            alone.append(logits(model, tokens))
    all_inside = threading.Barrier(len(adapters), timeout=30)

    def answer(adapter: Adapter | None) -> torch.Tensor:
        with using(adapter):
            all_inside.wait()
            return logits(model, tokens)

    with using(make_adapter(seed=3)), ThreadPoolExecutor(len(adapters)) as pool:
        together = list(pool.map(answer, adapters))
    for found, wanted in zip(together, alone, strict=True):
        torch.testing.assert_close(found, wanted)


def test_gradients_reach_the_adapter_and_nothing_else(
    model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor
) -> None:
    adapter = make_adapter()
    with using(adapter):
        model(input_ids=tokens).logits.square().mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in adapter.parameters() if p.grad is not None)
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_base_in_eight_bits_is_trained_beside(model: Any, tokens: torch.Tensor) -> None:
    quantize_linears(model, keep=model.get_output_embeddings())
    layers = install(model, keep=model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(r=4), layers, seed=0)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    with using(adapter):
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), tokens.flatten())
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_an_adapter_beside_eight_bits_is_close_to_itself_beside_the_plain_base(
    model: Any, layers: dict[str, LowRankLinear], make_adapter: MakeAdapter, tokens: torch.Tensor
) -> None:
    with using(make_adapter()):
        plain = logits(model, tokens)
        for layer in layers.values():
            holder = nn.ModuleList([layer.linear])
            quantize_linears(holder)
            layer.linear = holder[0]
        eight = logits(model, tokens)
    assert float((eight - plain).abs().max() / plain.abs().max()) < 0.1


def test_the_layers_of_gpt2_are_linear_layers_too(tmp_path: Path, tokens: torch.Tensor) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=1, n_head=2, n_positions=64)).eval()
    base = logits(model, tokens)
    layers = install(model, keep=model.get_output_embeddings())
    assert (layers["transformer.h.0.attn.c_attn"].in_features, len(layers)) == (32, 4)
    assert layers["transformer.h.0.attn.c_attn"].out_features == 96
    assert torch.equal(logits(model, tokens), base)
