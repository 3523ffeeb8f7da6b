"""bitsandbytes' layers beside ours: they run on a processor too, so that what CUDA gets is tried here."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import nn

from adapter_service import model_utils
from adapter_service.base_models.int8 import Int8Linear
from adapter_service.base_models.precision import Precision, Quantization
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import install, using
from adapter_service.model_utils import BaseModel, load_base

IDS = torch.arange(48).view(2, 24) + 2


@pytest.fixture
def load(tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the tiny base as CUDA would get it, onto the processor."""

    def loaded(quantization: Quantization) -> BaseModel:
        precision = Precision("cpu", torch.float32, quantization, torch.get_num_threads(), "for a test")
        monkeypatch.setattr(model_utils, "choose_precision", lambda **_: precision)
        # On some processors, and never on CUDA, layers of 4 bits change to a form without a gradient once they answer.
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
        return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder)

    return loaded


def gradients(model: Any, adapter: Adapter) -> torch.Tensor:
    adapter.zero_grad()
    with using(adapter):
        logits = model(input_ids=IDS).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in adapter.parameters() if parameter.grad is not None])


def beside(model: Any) -> Adapter:
    """An adapter of all layers whose second matrices are not zero, so that every one has a gradient."""
    adapter = Adapter.fresh(LoraConfig(r=4), install(model, keep=model.get_output_embeddings()), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for pair in adapter.pairs.values():
            pair.b.normal_(std=0.05)
    return adapter


def widen(model: Any) -> None:
    """Put plain layers with the same values in the place of quantized ones."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if (weight := wide_weight(child)) is not None:
                plain = nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight = nn.Parameter(weight, requires_grad=False)
                setattr(module, name, plain)


def wide_weight(layer: Any) -> torch.Tensor | None:
    if isinstance(layer, Int8Linear):
        return layer.weight.float() * layer.scale[:, None]
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        wide: torch.Tensor = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return wide.float()
    return None


@pytest.mark.parametrize(("quantization", "layer"), [("bnb-int8", Int8Linear), ("bnb-nf4", bitsandbytes.nn.Linear4bit)])
def test_every_layer_but_the_head_is_quantized_while_loading(load: Any, quantization: Any, layer: type) -> None:
    base = load(quantization)
    assert sum(type(module) is layer for module in base.model.modules()) == 2 * 7
    assert type(base.model.get_output_embeddings()) is nn.Linear


@pytest.mark.parametrize("quantization", ["bnb-int8", "bnb-nf4"])
def test_nothing_that_is_not_quantized_is_made_wider(load: Any, quantization: Any) -> None:
    """As PEFT's `prepare_model_for_kbit_training` does; and nothing of the base trains."""
    base = load(quantization)
    assert {p.dtype for p in base.model.parameters()} <= {torch.float32, torch.uint8}
    assert base.model.get_input_embeddings().weight.dtype is base.precision.dtype
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize(("quantization", "most"), [("bnb-int8", 0.03), ("bnb-nf4", 1e-3)])
def test_an_adapter_beside_them_has_the_gradient_that_it_has_beside_plain_layers_of_their_values(
    load: Any, quantization: Any, most: float
) -> None:
    base = load(quantization)
    adapter = beside(base.model)
    found = gradients(base.model, adapter)
    widen(base.model)
    wanted = gradients(base.model, adapter)
    assert float((found - wanted).norm() / wanted.norm()) < most


@pytest.mark.parametrize("quantization", ["bnb-int8", "bnb-nf4"])
def test_training_beside_them_lowers_the_loss(load: Any, quantization: Any) -> None:
    model = load(quantization).model
    adapter = beside(model)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        gradients(model, adapter)
        optimizer.step()
        with using(adapter), torch.no_grad():
            logits = model(input_ids=IDS).logits
        losses.append(float(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())))
    assert losses[-1] < 0.9 * losses[0]


def test_eight_bits_take_over_what_bitsandbytes_holds() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 40)
    theirs = bitsandbytes.nn.Linear8bitLt(96, 40, has_fp16_weights=False)
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu")  # quantizes
    ours = Int8Linear(theirs)
    assert ours.weight.data_ptr() == theirs.weight.data_ptr()
    x = torch.randn(20, 96)
    torch.testing.assert_close(ours(x), plain(x), rtol=0.02, atol=0.02)


def test_large_activations_of_bfloat16_neither_overflow_nor_warn(caplog: pytest.LogCaptureFixture) -> None:
    """bitsandbytes' own product casts them to float16, which ends at 65,504, and logs a warning each time."""
    theirs = bitsandbytes.nn.Linear8bitLt(96, 40, bias=False, has_fp16_weights=False).to("cpu")
    x = torch.full((20, 96), 1e5, dtype=torch.bfloat16)
    ours = Int8Linear(theirs)
    with caplog.at_level(logging.WARNING):
        y = ours(x)
    assert y.isfinite().all()
    assert not caplog.records
