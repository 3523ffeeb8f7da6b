"""Adapter folders: what is refused, and why."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_service.errors import AdapterFormatError
from adapter_service.lora.adapter import LoraConfig
from adapter_service.lora.folder import (
    _KNOWN,
    _REFUSED_WHEN_SET,
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_config,
    read_folder,
    write_folder,
)
from adapter_service.lora.layer import LowRankLinear
from tests.lora.conftest import MakeAdapter

Layers = dict[str, LowRankLinear]
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(make_adapter: MakeAdapter, tmp_path: Path) -> Path:
    """A good one, to be spoilt."""
    write_folder(make_adapter(LoraConfig(r=4, target_modules=("q_proj",))), tmp_path, base_name="tiny")
    return tmp_path


def set_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    edit(weights)
    save_file(weights, folder / WEIGHTS_FILE)


def test_what_is_written_is_read_back_to_the_last_bit(
    make_adapter: MakeAdapter, layers: Layers, tmp_path: Path
) -> None:
    config = LoraConfig(r=4, alpha=3, use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 5})
    written = make_adapter(config)
    write_folder(written, tmp_path, base_name="tiny")
    read = read_folder(tmp_path, layers)
    assert read.pairs.keys() == written.pairs.keys()
    for path, pair in written.pairs.items():
        assert torch.equal(read.pairs[path].a, pair.a)
        assert torch.equal(read.pairs[path].b, pair.b)
        assert read.pairs[path].scale == pair.scale


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"auto_map": {"x": "y"}}, "auto_map"),
        ({"bias": "all"}, "bias 'all'; only 'none'"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16', which changes the base's weights"),
        ({"init_lora_weights": "olora"}, "'olora', which changes"),
        ({"peft_type": "IA3"}, "kind 'IA3'; only LORA"),
        ({"use_next_years_idea": True}, "use_next_years_idea.* not known here"),
        ({"r": 0}, "a rank is at least 1"),
        ({"r": "many"}, "cannot be"),
        ({"rank_pattern": {"q_proj": 0}}, "a rank is at least 1"),
        ({"alpha_pattern": {"(": 1}}, "cannot be"),
        ({"rank_pattern": ["q_proj"]}, "cannot be"),
        ({"r": 8}, "'model.layers.0.self_attn.q_proj' has rank 4, its config says 8"),
    ],
)
def test_another_kind_of_adapter_is_refused_with_the_reason(
    folder: Path, layers: Layers, changes: dict[str, Any], reason: str
) -> None:
    set_config(folder, **changes)
    with pytest.raises(AdapterFormatError, match=reason.replace("(", r"\(")):
        read_folder(folder, layers)


def test_every_setting_that_peft_writes_is_served_without_effect_or_refused() -> None:
    """A new one in a later PEFT fails here, until somebody has looked at what it does to the forward pass."""
    from peft import LoraConfig as PeftConfig

    assert {field.name for field in dataclasses.fields(PeftConfig)} - _KNOWN == set()


@pytest.mark.parametrize("name", sorted(_REFUSED_WHEN_SET))
def test_what_is_more_than_products_is_refused_by_its_name(folder: Path, layers: Layers, name: str) -> None:
    set_config(folder, **{name: ["something"]})
    with pytest.raises(AdapterFormatError, match=rf"adapter with \['{name}'\] set; plain LoRA"):
        read_folder(folder, layers)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "PiSSA"])
def test_initial_values_that_change_the_base_are_refused(folder: Path, layers: Layers, init: str) -> None:
    set_config(folder, init_lora_weights=init)
    with pytest.raises(AdapterFormatError, match="changes the base's weights"):
        read_folder(folder, layers)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_initial_values_that_leave_the_base_alone_are_served(folder: Path, layers: Layers, init: object) -> None:
    set_config(folder, init_lora_weights=init)
    assert read_folder(folder, layers).pairs


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", '"text"', "null", "{}"])
def test_a_config_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / CONFIG_FILE).write_text(content)
    with pytest.raises(AdapterFormatError):
        read_config(folder)


def test_a_config_without_a_rank_is_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text('{"peft_type": "LORA", "lora_alpha": 1}')
    with pytest.raises(AdapterFormatError, match=r"has no \['r'\]"):
        read_config(folder)


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_refused(folder: Path, layers: Layers, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(AdapterFormatError, match=f"{missing} is missing"):
        read_folder(folder, layers)


def test_pickled_weights_are_never_read(folder: Path, layers: Layers) -> None:
    torch.save(load_file(folder / WEIGHTS_FILE), folder / "adapter_model.bin")
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterFormatError, match="missing or no safetensors"):
        read_folder(folder, layers)


def test_a_pickle_under_the_right_name_is_refused(folder: Path, layers: Layers) -> None:
    torch.save({"x": torch.ones(1)}, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterFormatError, match="no safetensors file"):
        read_folder(folder, layers)


def rename(weights: dict[str, torch.Tensor], old: str, new: str) -> None:
    for key in [key for key in weights if old in key]:
        weights[key.replace(old, new)] = weights.pop(key)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda w: w.pop(f"{PREFIX}.lora_B.weight"), "only one of the two matrices"),
        (lambda w: w.clear(), "holds no weights"),
        (lambda w: w[f"{PREFIX}.lora_A.weight"].fill_(torch.nan), "not finite"),
        (lambda w: w[f"{PREFIX}.lora_B.weight"].fill_(torch.inf), "not finite"),
        (lambda w: w.update({f"{PREFIX}.lora_A.weight": torch.ones(4, 32)}), r"A \(4, 32\).*wants A \(r, 64\)"),
        (lambda w: w.update({f"{PREFIX}.lora_B.weight": torch.ones(64, 3)}), r"B \(64, 3\).*wants"),
        (lambda w: w.update({f"{PREFIX}.lora_A.weight": torch.ones(4)}), "no matrices"),
        (lambda w: w.update({f"{PREFIX}.lora_B.weight": torch.ones(64, 4, dtype=torch.int8)}), "no matrices"),
        (lambda w: w.update({f"{PREFIX}.lora_magnitude_vector": torch.ones(64)}), "no LoRA matrix"),
        (lambda w: rename(w, "self_attn.q_proj", "attn.qkv"), "attn.qkv', which this base does not have"),
        (lambda w: rename(w, "layers.1.", "layers.7."), "layers.7.* which this base does not have"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason(
    folder: Path, layers: Layers, edit: Callable[[dict[str, torch.Tensor]], object], reason: str
) -> None:
    edit_weights(folder, edit)
    with pytest.raises(AdapterFormatError, match=reason):
        read_folder(folder, layers)


def test_reading_an_adapter_again_and_again_keeps_nothing(
    make_adapter: MakeAdapter, layers: Layers, tmp_path: Path
) -> None:
    adapter = make_adapter(LoraConfig(r=4))
    write_folder(adapter, tmp_path, base_name="tiny")

    def blocks_after(reads: int) -> int:
        for _ in range(reads):
            read_folder(tmp_path, layers)
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(5)
    # Two blocks for each tensor of each read is what safetensors' own reader kept.
    assert blocks_after(50) - before < 50 * len(adapter.pairs)
