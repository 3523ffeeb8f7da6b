"""Training the upper half of the decoder's layers: nothing below it is part of the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from adapter_service.base_models.int8 import quantize_linears
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.depth import depths
from adapter_service.lora.layer import install, using
from adapter_service.model_utils import BaseModel
from adapter_service.training.recomputing import recomputing
from tests.training.small_run import fresh_adapter, run, small_settings, some_samples

LAYERS = 4
Make = Callable[[], tuple[Any, Any]]


def llama() -> tuple[Any, Any]:
    """A random decoder, and the list of its layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    sizes = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=LAYERS)).eval().requires_grad_(False)
    return model, model.model.layers


def llama_in_8_bits() -> tuple[Any, Any]:
    model, layers = llama()
    quantize_linears(model, keep=model.get_output_embeddings())
    return model, layers


def gpt2() -> tuple[Any, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    config = GPT2Config(vocab_size=258, n_embd=32, n_layer=LAYERS, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    return model, model.transformer.h


@pytest.mark.parametrize("make", [llama, llama_in_8_bits, gpt2])
@pytest.mark.parametrize("targets", ["all-linear", "last of each layer"])
def test_nothing_below_the_first_layer_that_trains_is_kept_or_has_a_gradient(make: Make, targets: str) -> None:
    model, decoder = make()
    places = install(model, keep=model.get_output_embeddings())
    named = targets if targets == "all-linear" else (next(reversed(places)).rpartition(".")[2],)
    adapter = Adapter.fresh(LoraConfig(r=2, layers="top-half", target_modules=named), places, seed=0)
    recorded: set[str] = set()
    for path, place in places.items():
        place.register_forward_hook(lambda _, __, y, path=path: recorded.add(path) if y.requires_grad else None)
    with _kept_tensors(decoder) as kept, using(adapter):
        states = model.get_decoder()(input_ids=some_ids(), use_cache=False).last_hidden_state
    assert {depths(places)[path] for path in recorded} == {2, 3}
    assert kept.keys() == {2, 3}  # what was kept before layer 2, or in no layer, would have another key
    states.square().sum().backward()
    assert {depths(places)[path] for path, pair in adapter.pairs.items() if pair.b.grad is not None} == {2, 3}
    assert all(pair.b.grad is not None and bool(pair.b.grad.any()) for pair in adapter.pairs.values())


def some_ids() -> torch.Tensor:
    return torch.randint(2, 258, (3, 11), generator=torch.Generator().manual_seed(4))


@contextmanager
def _kept_tensors(decoder: Any) -> Iterator[Counter[int]]:
    """How many tensors autograd keeps in each of the decoder's layers; before the first one is -1."""
    kept: Counter[int] = Counter()
    at = -1

    def begin(number: int) -> Callable[..., None]:
        def entered(*_: object) -> None:
            nonlocal at
            at = number

        return entered

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[at] += 1
        return tensor

    for number, layer in enumerate(decoder):
        layer.register_forward_pre_hook(begin(number))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("make", [llama, gpt2])
def test_where_layers_are_run_again_those_below_are_not(make: Make) -> None:
    model, _ = make()
    places = install(model, keep=model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(r=2, layers="top-half"), places, seed=0)
    runs: Counter[str] = Counter()
    for path, place in places.items():
        place.register_forward_hook(lambda *_, path=path: runs.update([path]))
    with recomputing(model, adapter), using(adapter):
        model.get_decoder()(input_ids=some_ids(), use_cache=False).last_hidden_state.square().sum().backward()
    assert runs.keys() == places.keys()
    assert {depths(places)[path] for path, count in runs.items() if count > 1} == {2, 3}


def test_the_upper_half_has_the_gradient_that_it_has_in_the_whole(tiny_base: BaseModel) -> None:
    """As long as the pairs below add nothing: at the first step B is zero."""
    settings = small_settings(max_steps=1)
    every = fresh_adapter(tiny_base)
    upper = {path: pair for path, pair in every.pairs.items() if path.startswith("model.layers.1.")}
    config = LoraConfig(r=4, alpha=8, layers="top-half")
    alone = run(tiny_base, some_samples(4), settings, adapter=Adapter(config, upper).trainable_copy())
    whole = run(tiny_base, some_samples(4), settings, adapter=every)
    last = len(alone.gradients)
    assert alone.result.first_loss == pytest.approx(whole.result.first_loss, rel=1e-6)
    torch.testing.assert_close(_unit(alone.gradients), _unit(whole.gradients[-last:]), rtol=1e-4, atol=1e-6)


def _unit(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of length 1 in all: clipping has scaled the two by other norms."""
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return [gradient / norm for gradient in gradients]


def test_what_is_shown_often_is_learned_in_the_upper_half_too(tiny_base: BaseModel) -> None:
    settings = small_settings(num_epochs=40, learning_rate=0.02)
    adapter = fresh_adapter(tiny_base, r=16, alpha=32, layers="top-half")
    result = run(tiny_base, some_samples(4), settings, adapter=adapter).result
    assert result.last_loss < 0.7 * result.first_loss
