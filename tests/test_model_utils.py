"""Loading a base: frozen, known by its weights, in 8 bits where asked, and never over the network."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapter_service.base_models.int8 import Int8Linear
from adapter_service.engine.requests import Sampling
from adapter_service.errors import BaseModelError
from adapter_service.model_utils import BaseModel, load_base
from tests.answers_by_batch import decode
from tests.conftest import SMALL_BASE

EditWeights = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture
def folder(tiny_base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base to change."""
    return Path(shutil.copytree(tiny_base_folder, tmp_path / "base"))


def load(folder: Path, **options: Any) -> BaseModel:
    return load_base(str(folder), bases_dir=folder, **{"device": "cpu", "dtype": "float32", **options})


def edit_weights(folder: Path, edit: EditWeights) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_base_is_frozen_and_says_what_it_is(tiny_base: BaseModel) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())
    assert not tiny_base.model.training
    assert (tiny_base.context_tokens, tiny_base.precision.quantization) == (512, "none")


def test_every_token_that_ends_an_answer_is_known(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [5, 7]}))
    assert load(folder).eos_ids() == {1, 5, 7}


@pytest.mark.model
def test_a_base_that_lies_here_is_loaded_without_the_network(
    bases_dir: Path, small_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    again = load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32")
    assert again.identity == small_base.identity
    assert tried == []


def test_the_identity_is_the_weights_and_not_the_place(folder: Path, tiny_base: BaseModel) -> None:
    assert load(folder).identity == tiny_base.identity


def test_one_changed_weight_changes_the_identity(folder: Path) -> None:
    """Any of them: the middle of a big file too."""
    before = load(folder).identity
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert load(folder).identity != before


def test_another_config_is_another_identity(folder: Path) -> None:
    before = load(folder).identity
    edit_config(folder, rope_theta=5000.0)
    assert load(folder).identity != before


def test_a_base_with_code_of_its_own_is_refused(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModelForCausalLM": "code.Model"})
    with pytest.raises(BaseModelError, match=r"auto_map.*never run here; use a base"):
        load(folder)


def test_a_config_that_cannot_be_read_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"config\.json of 'base' cannot be read"):
        load(folder)


def test_a_kind_of_model_that_nobody_knows_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="unheard-of")
    with pytest.raises(BaseModelError, match="unheard-of"):
        load(folder)


def test_a_base_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"cannot be loaded: .*model\.safetensors"):
        load(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load(folder)


def test_weights_that_end_too_early_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load(folder)


def test_a_missing_weight_is_refused_and_never_made_up(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(BaseModelError, match=r"lacks 1 weights, model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(32)}))
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load(folder)


def test_four_bits_on_a_processor_are_refused_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(BaseModelError, match="4-bit bases need CUDA"):
        load(folder, use_4bit=True)


def bytes_of(modules: list[nn.Module]) -> int:
    tensors = {t.data_ptr(): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_eight_bits_are_one_byte_for_each_weight_and_nothing_beside(folder: Path) -> None:
    plain, eight = load(folder), load(folder, use_8bit=True)
    layers = [module for module in eight.model.modules() if isinstance(module, Int8Linear)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    scales = sum(layer.out_features for layer in layers)
    assert len(layers) == 14
    assert bytes_of(list(layers)) == weights + 4 * scales
    assert plain.weight_bytes - eight.weight_bytes == 3 * weights - 4 * scales


def test_no_sixteen_bit_copy_lies_anywhere_in_the_model(folder: Path) -> None:
    eight = load(folder, dtype="bfloat16", use_8bit=True)
    wide = {name for name, tensor in eight.model.state_dict().items() if tensor.dtype is torch.bfloat16}
    assert {name for name in wide if not name.endswith("norm.weight")} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }


@pytest.mark.model
def test_the_small_base_in_eight_bits_still_says_what_it_said(bases_dir: Path, small_base: BaseModel) -> None:
    eight = load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32", use_8bit=True)
    prompt = small_base.tokenizer("The capital of France is")["input_ids"]
    answers = [
        small_base.tokenizer.decode(decode(base, prompt, Sampling(max_new_tokens=8))) for base in (small_base, eight)
    ]
    assert eight.precision.quantization == "int8"
    assert ["Paris" in answer for answer in answers] == [True, True]


def test_gpt2_is_held_in_eight_bits_too(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.conftest import byte_tokenizer

    GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path
    )
    byte_tokenizer().save_pretrained(tmp_path)
    eight = load(tmp_path, use_8bit=True)
    assert sum(isinstance(module, Int8Linear) for module in eight.model.modules()) == 4


def test_a_base_is_loaded_with_the_threads_that_are_set(folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        load(folder, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
