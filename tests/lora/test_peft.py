"""PEFT is the reference: the same folder gives the same logits there and here, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.folder import read_folder, write_folder
from adapter_service.lora.layer import LowRankLinear, install, using
from adapter_service.model_utils import load_base
from tests.lora.conftest import MakeAdapter, logits
from tests.peft_reference import written_by_peft

# PEFT asks transformers for an attribute that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Layers = dict[str, LowRankLinear]

CONFIGS = {
    "all-linear": LoraConfig(r=4, alpha=8),
    "some targets": LoraConfig(r=4, alpha=8, target_modules=("q_proj", "0.mlp.down_proj")),
    "upper half": LoraConfig(r=4, alpha=8, layers="top-half", use_rslora=True),
    "upper half of some targets": LoraConfig(r=4, alpha=8, layers="top-half", target_modules=("q_proj", "mlp.up_proj")),
    "rank-stabilized": LoraConfig(r=9, alpha=4, use_rslora=True),
    "rank pattern": LoraConfig(r=4, alpha=8, rank_pattern={"q_proj": 2, r"1\.mlp\..*": 7}),
    "alpha pattern": LoraConfig(r=4, alpha=8, alpha_pattern={"v_proj": 1, r"layers\.0\..*o_proj": 20}),
    "both, rank-stabilized": LoraConfig(
        r=4, alpha=8, use_rslora=True, rank_pattern={"k_proj": 3}, alpha_pattern={"k_proj": 5}
    ),
}


@pytest.fixture
def second_model(tiny_base_folder: Path) -> Any:
    """For PEFT, which changes the model that it is given."""
    return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32").model


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5


def opened_in_peft(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, local_files_only=True).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_is_written_here_answers_the_same_in_peft(
    config: LoraConfig, model: Any, second_model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor, tmp_path: Path
) -> None:
    adapter = make_adapter(config)
    write_folder(adapter, tmp_path, base_name="tiny")
    with using(adapter):
        found = logits(model, tokens)
    assert_same(found, logits(opened_in_peft(second_model, tmp_path), tokens))


def test_peft_serves_and_trains_the_upper_half_of_a_deep_base_and_no_other_layer(
    tokens: torch.Tensor, tmp_path: Path
) -> None:
    """With 20 targets and more PEFT takes shorter names for them: a 1 may not be taken for an 11."""
    from peft import PeftModel

    model, second = make_deep(), make_deep()
    layers = install(model, keep=model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(r=2, layers="top-half"), layers, seed=1)
    for pair in adapter.pairs.values():
        pair.b.data.normal_(std=0.2)
    write_folder(adapter, tmp_path, base_name="deep")
    with using(adapter):
        found = logits(model, tokens)
    assert_same(found, logits(opened_in_peft(second, tmp_path), tokens))
    trained = PeftModel.from_pretrained(make_deep(), tmp_path, is_trainable=True).named_parameters()
    paths = {name.split(".lora_")[0].removeprefix("base_model.model.") for name, p in trained if p.requires_grad}
    assert paths == adapter.pairs.keys()
    assert {path.split(".")[2] for path in paths} == {"6", "7", "8", "9", "10", "11"}


def make_deep() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    sizes = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, num_hidden_layers=12, initializer_range=0.2)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


PEFT_OPTIONS: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "default targets": {"r": 4},
    "expression": {"r": 4, "target_modules": r".*\.1\..*_proj"},
    "rank-stabilized": {"r": 9, "lora_alpha": 4, "use_rslora": True, "target_modules": "all-linear"},
    "patterns": {
        "r": 4, "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*up_proj": 20},
    },
    "gaussian": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "some layers": {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]},
}  # fmt: skip


@pytest.mark.parametrize("options", PEFT_OPTIONS.values(), ids=PEFT_OPTIONS.keys())
def test_what_peft_wrote_answers_the_same_here(
    options: dict[str, Any], model: Any, layers: Layers, second_model: Any, tokens: torch.Tensor, tmp_path: Path
) -> None:
    wanted = logits(written_by_peft(second_model, tmp_path, **options), tokens)
    with using(read_folder(tmp_path, layers)):
        assert_same(logits(model, tokens), wanted)


def test_what_peft_wrote_can_be_written_again(
    layers: Layers, second_model: Any, model: Any, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """As when training goes on from somebody's adapter."""
    again = tmp_path / "again"
    again.mkdir()
    wanted = logits(written_by_peft(second_model, tmp_path, **PEFT_OPTIONS["some layers"]), tokens)
    write_folder(read_folder(tmp_path, layers).trainable_copy(), again, base_name="tiny")
    with using(read_folder(again, layers)):
        assert_same(logits(model, tokens), wanted)


def make_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    config = GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize("make", [make_gpt2])
def test_the_layers_of_gpt2_answer_as_in_peft(make: Callable[[], Any], tokens: torch.Tensor, tmp_path: Path) -> None:
    model = make()
    wanted = logits(written_by_peft(make(), tmp_path, r=4, target_modules="all-linear"), tokens)
    with using(read_folder(tmp_path, install(model, keep=model.get_output_embeddings()))):
        assert_same(logits(model, tokens), wanted)


@pytest.mark.model
def test_a_real_base_answers_as_in_peft(small_base: Any, bases_dir: Path, tmp_path: Path) -> None:
    from tests.conftest import SMALL_BASE

    second = load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32").model
    tokens = small_base.tokenizer("नमस्ते, how are you?", return_tensors="pt")["input_ids"]
    wanted = logits(written_by_peft(second, tmp_path, r=8, target_modules="all-linear"), tokens)
    layers = install(small_base.model, keep=small_base.model.get_output_embeddings())
    with using(read_folder(tmp_path, layers)):
        assert_same(logits(small_base.model, tokens), wanted)
