"""One adapter's weights: which layers it changes, how they begin, and copies of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapter_service.errors import InvalidParameterError
from adapter_service.lora.adapter import Adapter, LoraConfig, select_layers
from adapter_service.lora.layer import LowRankLinear, using
from tests.lora.conftest import MakeAdapter, logits

Layers = dict[str, LowRankLinear]


def test_all_linear_is_every_layer(layers: Layers) -> None:
    assert select_layers(LoraConfig(), layers) == layers


def test_a_name_is_the_end_of_a_path_at_a_dot(layers: Layers) -> None:
    chosen = select_layers(LoraConfig(target_modules=("q_proj", "0.self_attn.v_proj")), layers)
    assert [path.removeprefix("model.layers.") for path in chosen] == [
        "0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj",
    ]  # fmt: skip


def test_the_upper_half_is_chosen_for_targets_of_every_kind(layers: Layers) -> None:
    upper = {path for path in layers if path.startswith("model.layers.1.")}
    assert select_layers(LoraConfig(layers="top-half"), layers).keys() == upper
    named = LoraConfig(layers="top-half", target_modules=("q_proj", "1.mlp.up_proj"))
    assert [path.removeprefix("model.layers.") for path in select_layers(named, layers)] == [
        "1.self_attn.q_proj", "1.mlp.up_proj",
    ]  # fmt: skip
    matched = LoraConfig(layers="top-half", target_modules=r".*o_proj")
    assert list(select_layers(matched, layers)) == ["model.layers.1.self_attn.o_proj"]


def test_a_target_in_the_lower_half_alone_is_an_error(layers: Layers) -> None:
    config = LoraConfig(layers="top-half", target_modules=("q_proj", "0.self_attn.v_proj"))
    with pytest.raises(InvalidParameterError, match=r"\['0.self_attn.v_proj'\] match no .* in the upper half"):
        select_layers(config, layers)


def test_a_text_is_a_regular_expression_over_whole_paths(layers: Layers) -> None:
    assert list(select_layers(LoraConfig(target_modules=r".*\.1\..*down_proj"), layers)) == [
        "model.layers.1.mlp.down_proj"
    ]


def test_a_target_that_matches_nothing_is_an_error_that_names_what_there_is(layers: Layers) -> None:
    config = LoraConfig(target_modules=("q_proj", "query", "proj"))
    with pytest.raises(
        InvalidParameterError, match=r"\['query', 'proj'\] match no .*'down_proj'.*'all-linear'"
    ) as error:
        select_layers(config, layers)
    assert error.value.parameter == "target_modules"


def test_an_expression_that_matches_nothing_is_an_error(layers: Layers) -> None:
    with pytest.raises(InvalidParameterError, match="'q_proj' match no linear layer"):
        select_layers(LoraConfig(target_modules="q_proj"), layers)


def test_patterns_change_the_rank_and_alpha_of_single_layers() -> None:
    config = LoraConfig(r=8, alpha=16, rank_pattern={"q_proj": 2}, alpha_pattern={r"1\..*v_proj": 4})
    assert [config.rank("l.0.q_proj"), config.rank("l.0.xq_proj")] == [2, 8]
    assert [config.scale("l.0.q_proj"), config.scale("l.1.a.v_proj"), config.scale("l.0.a.v_proj")] == [8, 0.5, 2]


def test_rank_stabilized_lora_divides_by_the_root() -> None:
    assert LoraConfig(r=16, alpha=32, use_rslora=True).scale("any") == 8


def test_the_same_seed_begins_with_the_same_weights(layers: Layers) -> None:
    first, again, other = (Adapter.fresh(LoraConfig(), layers, seed=seed) for seed in (1, 1, 2))
    path = next(iter(layers))
    assert torch.equal(first.pairs[path].a, again.pairs[path].a)
    assert not torch.equal(first.pairs[path].a, other.pairs[path].a)


def test_weights_begin_as_peft_begins_them(layers: Layers) -> None:
    """Kaiming-uniform with a = sqrt(5): within one over the root of the inputs."""
    for pair in Adapter.fresh(LoraConfig(), layers, seed=1).pairs.values():
        bound = pair.a.shape[1] ** -0.5
        assert 0.95 * bound < pair.a.abs().max().item() <= bound
        assert not pair.b.any()


def test_a_frozen_copy_answers_the_same_from_memory_of_its_own(
    model: Any, make_adapter: MakeAdapter, tokens: torch.Tensor
) -> None:
    adapter = make_adapter()
    copy = adapter.frozen_copy(torch.float32)
    with using(adapter):
        before = logits(model, tokens)
    for parameter in adapter.parameters():
        parameter.data.zero_()
    with using(copy):
        assert torch.equal(logits(model, tokens), before)
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_a_trainable_copy_leaves_the_one_being_served_alone(make_adapter: MakeAdapter) -> None:
    served = make_adapter().frozen_copy(torch.float32)
    copy = served.trainable_copy(dropout=0.1)
    for parameter in copy.parameters():
        assert parameter.requires_grad
        parameter.data.fill_(7)
    assert not any(bool((parameter == 7).any()) for parameter in served.parameters())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_seen(make_adapter: MakeAdapter, bad: float) -> None:
    adapter = make_adapter()
    assert adapter.is_finite()
    next(iter(adapter.pairs.values())).b.data[0, 0] = bad
    assert not adapter.is_finite()


def test_its_size_is_that_of_its_weights(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(LoraConfig(r=2, target_modules=("o_proj",)))
    assert adapter.size_bytes == 2 * (2 * 64 + 64 * 2) * 4
