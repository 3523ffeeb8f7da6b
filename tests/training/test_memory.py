"""The estimate of memory: what it grows with, that it is near what is taken, and what is refused by it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import torch

from adapter_service.base_models import free_memory
from adapter_service.base_models.free_memory import free_bytes
from adapter_service.errors import DoesNotFitError, InvalidParameterError
from adapter_service.lora.adapter import LoraConfig
from adapter_service.lora.layer import install, using
from adapter_service.model_utils import BaseModel
from adapter_service.settings import TrainingSettings
from adapter_service.training import memory as memory_module
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loss import Head, completion_loss
from adapter_service.training.memory import Demand, check_fits, estimate_bytes, fit, largest_micro_batch
from adapter_service.training.packing import lay_out
from tests.training.small_run import fresh_adapter, small_settings, some_samples

CPU = torch.device("cpu")


def layers_of(base: BaseModel) -> Any:
    return install(base.model, keep=base.model.get_output_embeddings())


@pytest.fixture
def deep_base(tiny_base: BaseModel) -> BaseModel:
    """The tiny base with sixteen layers; of two, running each again saves next to nothing."""
    config = copy.deepcopy(tiny_base.model.config)
    config.num_hidden_layers = 16
    return replace(tiny_base, model=type(tiny_base.model)(config).requires_grad_(requires_grad=False))


def demand_of(base: BaseModel, settings: TrainingSettings, longest: int = 32, **lora: Any) -> Demand:
    return Demand(base, layers_of(base), LoraConfig(**lora), settings, longest)


def estimate(
    base: BaseModel,
    tokens: int = 512,
    longest: int = 24,
    preset: Literal["fast", "small"] = "fast",
    **lora: Any,
) -> int:
    return estimate_bytes(demand_of(base, small_settings(), longest, **lora), tokens, preset=preset)


def test_the_estimate_grows_with_tokens_rank_and_dropout(tiny_base: BaseModel) -> None:
    plain = estimate(tiny_base)
    assert estimate(tiny_base, 1024) > plain
    assert estimate(tiny_base, r=64) > plain
    assert estimate(tiny_base, dropout=0.1) > plain
    assert estimate(tiny_base, longest=128) > plain
    assert estimate(tiny_base, target_modules=("q_proj",)) < plain


def test_what_is_run_again_is_estimated_at_less_and_never_at_more(tiny_base: BaseModel, deep_base: BaseModel) -> None:
    assert estimate(deep_base, preset="small") < estimate(deep_base)
    assert estimate(tiny_base, preset="small") == estimate(tiny_base)


def test_the_estimate_leaves_out_what_lies_below_the_first_layer_that_trains(tiny_base: BaseModel) -> None:
    none = estimate(tiny_base, 0), estimate(tiny_base, 0, layers="top-half")
    whole, half = estimate(tiny_base) - none[0], estimate(tiny_base, layers="top-half") - none[1]
    assert half == whole // 2  # of two equal layers
    assert none[1] < none[0]
    upper = ("model.layers.1.mlp.up_proj",)
    assert estimate(tiny_base, target_modules=upper) - estimate(tiny_base, 0, target_modules=upper) == half


def test_of_the_upper_half_run_again_one_whole_layer_is_estimated_and_half_of_the_inputs(deep_base: BaseModel) -> None:
    whole, half = (
        estimate(deep_base, preset="small", layers=part) - estimate(deep_base, 0, preset="small", layers=part)
        for part in ("all", "top-half")
    )
    # The inputs of eight layers, and the outputs of their query, key, value, output and down projections.
    assert whole - half == pytest.approx(8 * 512 * 4 * (64 + 64 + 32 + 32 + 64 + 64), abs=2)


def test_a_quantized_base_needs_room_for_the_largest_layer_made_wide(tiny_base: BaseModel) -> None:
    quantized = replace(tiny_base, precision=replace(tiny_base.precision, quantization="bnb-nf4"))
    assert estimate(quantized) - estimate(tiny_base) == 64 * 128 * 4  # float32


def test_a_layer_that_the_base_lacks_is_told_and_not_estimated(tiny_base: BaseModel) -> None:
    with pytest.raises(InvalidParameterError, match="match no linear layer"):
        estimate(tiny_base, target_modules=("nothing",))


@pytest.mark.parametrize("part", ["all", "top-half"])
def test_the_estimate_covers_what_the_backward_pass_keeps_and_is_not_many_times_that(
    tiny_base: BaseModel, part: Literal["all", "top-half"]
) -> None:
    kept = [_kept_bytes(tiny_base, count, part) for count in (8, 32)]
    estimates = [estimate(tiny_base, count * 24, r=4, layers=part) for count in (8, 32)]
    growth, estimated_growth = kept[1] - kept[0], estimates[1] - estimates[0]
    assert growth < estimated_growth < 3 * growth


def _kept_bytes(base: BaseModel, count: int, part: Literal["all", "top-half"]) -> int:
    """Of `count` samples of 24 padded tokens, without weights."""
    samples = [sample for sample in some_samples(400) if 16 < len(sample.ids) <= 24][:count]
    assert len(samples) == count
    adapter = fresh_adapter(base, b=0.1, layers=part)
    modules = (*base.model.parameters(), *base.model.buffers(), *adapter.parameters())
    weights = {tensor.untyped_storage().data_ptr() for tensor in modules}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (plan,) = lay_out(samples, 10_000, packs=True, shares=False)
    made = collate(base, samples, plan)
    with using(adapter), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = completion_loss(completion_states(base.model, made), made.targets, Head.of(base.model), 1.0)
    taken = sum(kept.values())
    del loss
    return taken


@pytest.mark.parametrize(
    ("longest", "budget", "sequences", "tokens"),
    [(100, 512, 14, 512), (30, 512, 4, 128), (500, 504, 14, 504), (501, 501, 14, 504)],
)
def test_the_largest_micro_batch_is_bound_by_budget_step_and_longest_sample(
    longest: int, budget: int, sequences: int, tokens: int
) -> None:
    settings = small_settings(max_seq_length=8, token_budget=budget, per_device_train_batch_size=sequences)
    assert largest_micro_batch(settings, longest) == tokens


@dataclass
class Free:
    """How much the machine has, in this test."""

    size: int

    def __call__(self, device: torch.device) -> int:
        return self.size


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    free = Free(0)
    monkeypatch.setattr(memory_module, "free_bytes", free)
    return free


def test_what_does_not_fit_is_refused_with_both_figures_and_what_to_lower(tiny_base: BaseModel, free: Free) -> None:
    settings = small_settings(token_budget=64, preset="fast")
    free.size = needed = estimate(tiny_base, 64, 32, r=256)
    assert check_fits(demand_of(tiny_base, settings, r=256)).needed_bytes == needed
    free.size -= 1
    with pytest.raises(DoesNotFitError, match=r"about \d+ MB of memory beside the base, and \d+ MB are free") as caught:
        check_fits(demand_of(tiny_base, settings, r=256))
    wanted = "micro-batches of 64 tokens at rank 256, preset 'fast': use preset 'small', or lower token_budget (now 64)"
    assert wanted in str(caught.value)


def test_auto_is_fast_where_that_fits_and_small_where_it_does_not(deep_base: BaseModel, free: Free) -> None:
    settings = small_settings(token_budget=64)
    sizes = {preset: estimate(deep_base, 64, 32, preset) for preset in ("fast", "small")}
    for free.size, wanted in ((sizes["fast"], "fast"), (sizes["fast"] - 1, "small"), (sizes["small"], "small")):
        found = check_fits(demand_of(deep_base, settings))
        assert (found.preset, found.needed_bytes) == (wanted, sizes[wanted])
        assert f"preset {wanted!r}" in found.note


def test_small_takes_smaller_passes_before_it_gives_up(tiny_base: BaseModel, free: Free) -> None:
    settings = small_settings(token_budget=128, preset="small")
    free.size = estimate(tiny_base, 128, 32, "small") - 1
    found = check_fits(demand_of(tiny_base, settings))
    assert (found.preset, found.tokens) == ("small", 64)
    assert "up to 64 tokens at a time" in found.note
    free.size = estimate(tiny_base, 32, 32, "small") - 1
    with pytest.raises(DoesNotFitError, match="micro-batches of 32 tokens at rank 16, preset 'small': lower"):
        check_fits(demand_of(tiny_base, settings))


def test_a_base_without_layers_to_run_again_is_fast_or_refused(
    tiny_base: BaseModel, free: Free, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "decoder_layers", lambda model: [])
    with pytest.raises(InvalidParameterError, match="use 'fast' with a smaller token_budget"):
        fit(demand_of(tiny_base, small_settings(preset="small")))
    assert fit(demand_of(tiny_base, small_settings())).preset == "fast"


def test_a_group_of_processes_has_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, use, details = tmp_path / "max", tmp_path / "current", tmp_path / "stat"
    monkeypatch.setattr(free_memory, "_GROUP_DETAILS", details)
    details.write_text("")
    monkeypatch.setattr(free_memory, "_GROUP_LIMIT", limit)
    monkeypatch.setattr(free_memory, "_GROUP_USE", use)
    assert free_bytes(CPU) == pytest.approx(psutil.virtual_memory().available, rel=0.5)
    limit.write_text("max\n")
    use.write_text("100\n")
    assert free_bytes(CPU) > 1 << 20
    limit.write_text("1100\n")
    assert free_bytes(CPU) == 1000
    details.write_text("anon 60\ninactive_file 30\nactive_file 10\n")
    assert free_bytes(CPU) == 1030
