"""Where in the decoder a layer lies: by the paths of real architectures, and what has no halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from adapter_service.errors import InvalidParameterError
from adapter_service.lora.depth import depths, reached_backward, upper_half
from adapter_service.lora.layer import install

# Shapes that each have another name for the list of their layers, or other numbers in their paths.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 4, "num_key_value_heads": 2},
    "gpt2": {"n_layer": 4, "n_embd": 32, "n_head": 2},
    "gpt_neox": {"num_hidden_layers": 4},
    "bloom": {"n_layer": 4, "n_head": 2},
    "opt": {"num_hidden_layers": 4, "word_embed_proj_dim": 16, "ffn_dim": 64},  # with layers outside of the list
    "olmoe": {"num_hidden_layers": 4, "num_experts": 3},
}


def layers_of(model_type: str, **options: Any) -> Any:
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **small, **options))
    return install(model, keep=model.get_output_embeddings())


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_upper_half_is_that_of_the_decoder_layers(model_type: str) -> None:
    layers = layers_of(model_type, **ARCHITECTURES[model_type])
    upper = upper_half(layers)
    assert {depths(layers)[path] for path in upper} == {2, 3}
    assert len(upper) * 2 == len(depths(layers))


def test_the_middle_of_an_odd_number_is_not_of_the_upper_half() -> None:
    layers = layers_of("llama", num_hidden_layers=5)
    assert {path.split(".")[2] for path in upper_half(layers)} == {"3", "4"}


def test_the_decoder_is_the_list_with_the_most_linear_layers() -> None:
    seeing = [f"model.vision_tower.blocks.{n}.{name}" for n in range(9) for name in ("qkv", "proj")]
    speaking = [f"model.language_model.layers.{n}.mlp.experts.{e}.up" for n in range(4) for e in range(8)]
    paths = dict.fromkeys(["model.projector.0", *seeing, *speaking])
    assert {path.split(".")[3] for path in upper_half(paths)} == {"2", "3"}
    assert depths(paths).keys() == set(speaking)


@pytest.mark.parametrize(("paths", "count"), [(["model.up", "model.down.0"], 0), (["model.layers.0.up"], 1)])
def test_a_base_without_two_decoder_layers_has_no_upper_half(paths: list[str], count: int) -> None:
    with pytest.raises(InvalidParameterError, match=f"this base has {count} numbered decoder layers") as caught:
        upper_half(dict.fromkeys(paths))
    assert caught.value.parameter == "lora_layers"


def test_the_backward_pass_ends_at_the_lowest_layer_that_is_trained() -> None:
    layers = layers_of("llama", num_hidden_layers=4)
    reached = reached_backward(["model.layers.3.mlp.up_proj", "model.layers.2.self_attn.q_proj"], layers)
    assert reached.keys() == upper_half(layers).keys()
    assert reached_backward(layers, layers) == layers


def test_a_trained_layer_outside_of_the_list_may_lie_before_it() -> None:
    layers = layers_of("opt", **ARCHITECTURES["opt"])
    outside = layers.keys() - depths(layers).keys()
    assert outside == {"model.decoder.project_in", "model.decoder.project_out"}
    assert reached_backward(outside, layers) == layers
    assert reached_backward(["model.decoder.layers.3.fc1"], layers).keys() > outside
