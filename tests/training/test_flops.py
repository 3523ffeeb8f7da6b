"""The operations that training needs, against those that torch counts in a real pass."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.layer import install
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.rendering import RenderedSample
from adapter_service.training.flops import Work, looks
from tests.conftest import byte_tokenizer
from tests.training.small_run import NO_CLIPPING, run, small_settings

# The counter knows the product that is added to a new tensor, and not the one that is added in place.
IN_PLACE = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1]}
TOKENS = 32  # a multiple of the padding, so that there is none
SAMPLE = RenderedSample(list(range(2, 2 + TOKENS)), 20)


@pytest.fixture(scope="module")
def windowed_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random Gemma 3 of two layers, of which the first looks back over 8 tokens; attention is plain products."""
    folder = tmp_path_factory.mktemp("windowed-base")
    config = Gemma3TextConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        attn_implementation="eager",
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    base = load_base(str(folder), bases_dir=folder, device="cpu", dtype="float32")
    base.model.set_attn_implementation("eager")
    return base


@pytest.mark.parametrize(
    "targets",
    [
        "all-linear",
        r".*layers\.1\..*",
        ("o_proj",),
        ("down_proj",),
        r".*layers\.1\.mlp\..*",
        ("q_proj", "k_proj", "v_proj"),
    ],
)
def test_it_is_what_a_pass_computes_but_for_the_masked_part_of_attention(
    windowed_base: BaseModel, targets: str | tuple[str, ...]
) -> None:
    layers = install(windowed_base.model, keep=windowed_base.model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(r=4, target_modules=targets), layers, seed=0)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counted:
        run(windowed_base, [SAMPLE], small_settings(max_grad_norm=NO_CLIPPING), adapter=adapter)
    work = Work.of(windowed_base.model, layers, {path: adapter.config.rank(path) for path in adapter.pairs})
    masked = sum(flops * (TOKENS**2 - looks(TOKENS, span)) for span, flops in work.attention.items())
    assert work.flops([SAMPLE]) + masked == counted.get_total_flops()


def test_what_layers_look_at_is_bounded_by_their_span() -> None:
    assert [looks(tokens, None) for tokens in (1, 3)] == [1, 6]
    assert [looks(tokens, 2) for tokens in (1, 3, 5)] == [1, 5, 9]
    assert looks(3, 8) == looks(3, None)
