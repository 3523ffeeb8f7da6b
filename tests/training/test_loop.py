"""The training loop on a tiny base: gradients against the plain way, endings, and what nothing may change."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_service.base_models.pauses import apart
from adapter_service.engine.requests import Sampling
from adapter_service.errors import JobCancelledError, NonFiniteLossError, NothingToLearnError
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.folder import write_folder
from adapter_service.lora.layer import using
from adapter_service.lora.product import trained_product
from adapter_service.model_utils import BaseModel, load_base
from adapter_service.rendering import RenderedSample
from adapter_service.settings import LossSettings, TrainingSettings
from adapter_service.training.batching import planned_steps
from adapter_service.training.loop import Hooks, learning_rate, train
from adapter_service.training.progress import Progress, peak_memory_mb
from adapter_service.training.state import begin
from tests.answers_by_batch import decode
from tests.training.small_run import (
    NO_CLIPPING,
    fresh_adapter,
    run,
    small_settings,
    some_samples,
    weights_of,
)


def one_step(**changes: Any) -> TrainingSettings:
    return small_settings(max_steps=1, per_device_train_batch_size=8, max_grad_norm=NO_CLIPPING, **changes)


def test_a_split_step_has_the_gradient_of_the_whole(tiny_base: BaseModel) -> None:
    samples = some_samples(8)
    split = run(tiny_base, samples, one_step(token_budget=32), adapter=fresh_adapter(tiny_base, b=0.1))
    whole = run(tiny_base, samples, one_step(token_budget=512), adapter=fresh_adapter(tiny_base, b=0.1))
    torch.testing.assert_close(split.gradients, whole.gradients, rtol=1e-5, atol=1e-6)
    assert split.result.first_loss == pytest.approx(whole.result.first_loss, rel=1e-6)


def test_accumulated_batches_have_the_gradient_of_one_large_one(tiny_base: BaseModel) -> None:
    samples = some_samples(8)
    two = one_step(gradient_accumulation_steps=2).model_copy(update={"per_device_train_batch_size": 4})
    accumulated = run(tiny_base, samples, two, adapter=fresh_adapter(tiny_base, b=0.1))
    large = run(tiny_base, samples, one_step(), adapter=fresh_adapter(tiny_base, b=0.1))
    torch.testing.assert_close(accumulated.gradients, large.gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_the_gradient_is_that_of_transformers_and_peft(
    tiny_base: BaseModel, tiny_base_folder: Path, tmp_path: Path
) -> None:
    samples, adapter = some_samples(8), fresh_adapter(tiny_base, b=0.1, use_rslora=True)
    write_folder(adapter, tmp_path, base_name="tiny")
    ours = run(tiny_base, samples, one_step(token_budget=32), adapter=adapter)
    loss, theirs = _by_peft(tiny_base_folder, tmp_path, samples)
    assert ours.result.first_loss == pytest.approx(loss, rel=1e-5)
    for path, gradient in zip(_names(adapter), ours.gradients, strict=True):
        assert (gradient - theirs[path]).norm() < 1e-4 * theirs[path].norm(), path


def _names(adapter: Adapter) -> list[str]:
    return [f"{path}.lora_{matrix}" for path in adapter.pairs for matrix in "AB"]


def _by_peft(
    base_folder: Path, adapter_folder: Path, samples: list[RenderedSample]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the ordinary way: `labels`, -100 where nothing is learned, an attention mask."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder), adapter_folder, is_trainable=True
    )
    longest = max(len(sample.ids) for sample in samples)
    ids = torch.tensor([[*s.ids, *[0] * (longest - len(s.ids))] for s in samples])
    mask = torch.tensor([[1] * len(s.ids) + [0] * (longest - len(s.ids)) for s in samples])
    place = torch.arange(longest)
    starts = torch.tensor([[s.completion_start] for s in samples])
    labels = ids.masked_fill((place < starts) | (mask == 0), -100)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return float(loss.detach()), {name: _gradient(parameter) for name, parameter in _trained_by_peft(model).items()}


@pytest.mark.parametrize("ratio", [1.0, 16.0])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_matrices_a_and_b_take_the_steps_that_peft_s_loraplus_takes(
    tiny_base: BaseModel, tiny_base_folder: Path, tmp_path: Path, ratio: float
) -> None:
    """Its optimizer is handed the gradients of our run, one step after the other."""
    settings = small_settings(num_epochs=3, loraplus_lr_ratio=ratio, weight_decay=0.1, learning_rate=0.01)
    adapter = fresh_adapter(tiny_base, b=0.1)
    write_folder(adapter, tmp_path, base_name="tiny")
    taken: list[list[torch.Tensor]] = []
    state = begin(adapter, settings)
    state.optimizer.register_step_pre_hook(lambda *_: taken.append([_gradient(p) for p in adapter.parameters()]))
    train(tiny_base, some_samples(8), state, settings, Hooks())
    assert len(taken) == 6
    named = [dict(zip(_names(adapter), gradients, strict=True)) for gradients in taken]
    theirs = _steps_of_peft(tiny_base_folder, tmp_path, settings, named)
    for name, parameter in zip(_names(adapter), adapter.parameters(), strict=True):
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=1e-6, msg=name)


def _steps_of_peft(
    base_folder: Path, adapter_folder: Path, settings: TrainingSettings, gradients: list[dict[str, torch.Tensor]]
) -> dict[str, torch.nn.Parameter]:
    from peft import PeftModel
    from peft.optimizers import create_loraplus_optimizer
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_folder)
    model = PeftModel.from_pretrained(base, adapter_folder, is_trainable=True)
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=settings.learning_rate,
        loraplus_lr_ratio=settings.loraplus_lr_ratio,
        loraplus_weight_decay=settings.weight_decay,
        betas=(settings.adam_beta1, settings.adam_beta2),
    )
    total = len(gradients)
    share = [learning_rate(step, total, settings) / settings.learning_rate for step in range(total)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share[min(step, total - 1)])
    parameters = _trained_by_peft(model)
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = step[name]
        optimizer.step()
        schedule.step()
    return parameters


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def _trained_by_peft(model: Any) -> dict[str, torch.nn.Parameter]:
    """By the names of `_names`."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_where_the_completion_begins_decides_what_is_learned(tiny_base: BaseModel) -> None:
    samples = some_samples(4)
    later = [replace(sample, completion_start=sample.completion_start + 1) for sample in samples]
    first, second = (run(tiny_base, s, one_step()) for s in (samples, later))
    assert first.result.first_loss != second.result.first_loss
    assert second.result.completion_tokens == first.result.completion_tokens - 4


@pytest.mark.parametrize("samples", [[], [RenderedSample((5, 6, 7), 3)]])
def test_nothing_to_learn_is_an_error(tiny_base: BaseModel, samples: list[RenderedSample]) -> None:
    with pytest.raises(NothingToLearnError, match="no completion token"):
        run(tiny_base, samples)


@pytest.mark.parametrize("vocabulary", ["all", "sampled"])
def test_a_step_without_completion_tokens_is_no_division_by_zero(tiny_base: BaseModel, vocabulary: Any) -> None:
    samples, settings = [RenderedSample((5, 6, 7), 3), *some_samples(1)], small_settings(per_device_train_batch_size=1)
    state = begin(fresh_adapter(tiny_base), settings)
    train(tiny_base, samples, state, settings, Hooks(), LossSettings(vocabulary=vocabulary, sampled_tokens=64))
    assert sorted(map(bool, state.losses)) == [False, True]


@pytest.mark.parametrize(
    ("kind", "at_start", "at_half", "at_end"),
    [("constant", 0.25, 1.0, 1.0), ("linear", 0.25, 0.55, 0.1), ("cosine", 0.25, 0.55, 0.1)],
)
def test_the_rate_warms_up_and_falls_to_its_least(kind: str, at_start: float, at_half: float, at_end: float) -> None:
    settings = small_settings(learning_rate=1.0, warmup_steps=3, lr_scheduler_type=kind, min_lr_ratio=0.1)
    rates = [learning_rate(step, 1003, settings) for step in range(1003)]
    assert rates[:4] == pytest.approx([at_start, 0.5, 0.75, 1.0])
    assert (rates[503], rates[-1]) == pytest.approx((at_half, at_end), abs=2e-3)


def test_the_rate_of_a_cosine_is_flat_at_both_ends() -> None:
    settings = TrainingSettings(learning_rate=1.0, warmup_steps=0, min_lr_ratio=0.0)
    assert learning_rate(25, 100, settings) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_warmup_takes_no_more_than_half_of_a_short_run() -> None:
    settings = TrainingSettings(learning_rate=1.0, warmup_steps=50, lr_scheduler_type="constant")
    assert [learning_rate(step, 4, settings) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_the_gradient_is_clipped_and_its_norm_before_that_reported(tiny_base: BaseModel) -> None:
    told: list[Progress] = []
    settings = small_settings(max_steps=1, max_grad_norm=1e-3)
    ran = run(tiny_base, some_samples(4), settings, hooks=Hooks(report=told.append))
    clipped = torch.stack([gradient.norm() for gradient in ran.gradients]).norm()
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)
    assert told[0].gradient_norm > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_the_same_bytes_whatever_is_generated_between(tiny_base: BaseModel, dropout: float) -> None:
    other = fresh_adapter(tiny_base, b=0.3).frozen_copy(torch.float32)

    def generate() -> None:
        with using(other):
            assert decode(tiny_base, [5, 6, 7], Sampling(max_new_tokens=3, min_new_tokens=3, do_sample=True))
        torch.rand(3)

    def pause() -> None:
        apart(generate, threads=tiny_base.precision.threads)

    undisturbed, disturbed = (
        run(tiny_base, some_samples(12), adapter=fresh_adapter(tiny_base, dropout=dropout), hooks=hooks)
        for hooks in (Hooks(), Hooks(pause=pause))
    )
    assert disturbed.weights == undisturbed.weights


def behind_an_instruction(count: int) -> list[RenderedSample]:
    return [
        RenderedSample((*range(100, 120), *sample.ids), 20 + sample.completion_start) for sample in some_samples(count)
    ]


def test_a_run_may_learn_from_what_is_behind_an_instruction_alone(tiny_base: BaseModel) -> None:
    samples, adapter = behind_an_instruction(16), {"per_device_train_batch_size": 8, "token_budget": 256}
    whole, behind, small = (
        run(tiny_base, samples, small_settings(**adapter, **how), adapter=fresh_adapter(tiny_base, b=0.3))
        for how in ({}, {"prefix_gradient": False}, {"prefix_gradient": False, "preset": "small"})
    )
    assert behind.weights == small.weights
    assert behind.state.losses[0] != whole.state.losses[0]  # steps are not made by length then
    assert len(behind.state.losses) == len(whole.state.losses) == 2


def test_no_gradient_comes_from_what_is_kept_and_the_loss_is_the_same(tiny_base: BaseModel) -> None:
    samples, of_all = behind_an_instruction(8), {"per_device_train_batch_size": 8, "max_grad_norm": NO_CLIPPING}
    whole, behind = (
        run(
            tiny_base,
            samples,
            small_settings(**of_all, prefix_gradient=learned),
            adapter=fresh_adapter(tiny_base, b=0.3),
        )
        for learned in (True, False)
    )
    assert behind.state.losses == pytest.approx(whole.state.losses, rel=1e-5)
    norms = [torch.stack([gradient.norm() for gradient in ran.gradients]).norm() for ran in (whole, behind)]
    assert not torch.isclose(norms[0], norms[1], rtol=0.01)


def test_where_inputs_are_dropped_everything_is_learned_from(tiny_base: BaseModel) -> None:
    samples = behind_an_instruction(8)
    adapters = [fresh_adapter(tiny_base, b=0.3, dropout=0.3) for _ in range(2)]
    settings = [small_settings(token_budget=512, prefix_gradient=learned) for learned in (True, False)]
    first, second = (run(tiny_base, samples, one, adapter=own) for one, own in zip(settings, adapters, strict=True))
    assert first.weights == second.weights


def test_the_seed_decides_which_samples_make_a_step(tiny_base: BaseModel) -> None:
    first, second = (run(tiny_base, some_samples(12), small_settings(seed=seed)).state.losses for seed in (0, 1))
    assert first != second


def test_dropout_drops_in_training_and_never_after(tiny_base: BaseModel) -> None:
    with_dropout = run(tiny_base, some_samples(8), adapter=fresh_adapter(tiny_base, dropout=0.3))
    assert with_dropout.weights != run(tiny_base, some_samples(8)).weights
    assert all(pair.dropout_generator is None for pair in with_dropout.state.adapter.pairs.values())


def test_a_cancelled_run_stops_at_the_next_layer(tiny_base: BaseModel) -> None:
    pauses: list[int] = []
    hooks = Hooks(pause=lambda: pauses.append(1), cancelled=lambda: len(pauses) == 3)
    settings = small_settings(per_device_train_batch_size=8, token_budget=32)
    with pytest.raises(JobCancelledError):
        run(tiny_base, some_samples(8), settings, hooks=hooks)
    assert len(pauses) == 3


def test_weights_that_are_no_numbers_end_the_run_with_the_reason(tiny_base: BaseModel) -> None:
    adapter = fresh_adapter(tiny_base)
    next(iter(adapter.pairs.values())).a.data.fill_(math.nan)
    with pytest.raises(NonFiniteLossError, match=r"step 1: loss nan.*learning_rate \(now 0.001\)"):
        run(tiny_base, some_samples(4), adapter=adapter)


def test_a_gradient_that_is_no_number_changes_no_weight(tiny_base: BaseModel) -> None:
    kept: list[list[bytes]] = []
    state = begin(fresh_adapter(tiny_base), small_settings())

    def spoil(_: Progress) -> None:
        kept.append(weights_of(state.adapter))
        next(iter(state.adapter.pairs.values())).scale = math.inf

    with pytest.raises(NonFiniteLossError, match="step 2"):
        train(tiny_base, some_samples(12), state, small_settings(), Hooks(report=spoil))
    assert weights_of(state.adapter) == kept[0]


def test_max_steps_ends_a_run_and_sets_its_schedule(tiny_base: BaseModel) -> None:
    settings = small_settings(num_epochs=3, max_steps=5)
    assert (planned_steps(12, settings), run(tiny_base, some_samples(12), settings).result.steps) == (5, 5)
    assert planned_steps(12, small_settings(num_epochs=3)) == 9


def test_what_is_shown_often_is_learned(tiny_base: BaseModel) -> None:
    settings = small_settings(num_epochs=40, learning_rate=0.02)
    result = run(tiny_base, some_samples(4), settings, adapter=fresh_adapter(tiny_base, r=16, alpha=32)).result
    assert result.last_loss < 0.3 * result.first_loss


def test_progress_counts_real_tokens_and_the_time_left(tiny_base: BaseModel) -> None:
    told: list[Progress] = []
    samples = some_samples(12)
    run(tiny_base, samples, hooks=Hooks(report=told.append))
    assert [(p.step, p.total_steps) for p in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].tokens == sum(len(sample.ids) for sample in samples)
    assert (told[-1].seconds_left, told[0].seconds_left > 0, told[0].peak_memory_mb > 0) == (0, True, True)


def test_state_is_saved_every_few_steps_and_not_at_the_end(tiny_base: BaseModel) -> None:
    saved: list[int] = []
    run(tiny_base, some_samples(16), small_settings(save_steps=2), hooks=Hooks(save=lambda s: saved.append(s.step)))
    assert saved == [2]


def test_the_base_is_left_bit_for_bit(tiny_base: BaseModel) -> None:
    before = [parameter.clone() for parameter in tiny_base.model.parameters()]
    run(tiny_base, some_samples(4))
    assert all(map(torch.equal, before, tiny_base.model.parameters()))
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())


def test_the_low_rank_product_keeps_no_float32_copy_of_its_input(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="bfloat16")
    kept = _kept_by_products(monkeypatch)
    run(base, some_samples(4), small_settings(max_steps=1), adapter=fresh_adapter(base, r=4))
    activations = [tensor for tensor in kept if tensor.numel() > 1000]  # the matrices have 512 at most
    assert activations
    assert {tensor.dtype for tensor in activations} == {torch.bfloat16}


def _kept_by_products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What autograd keeps of low-rank products, filled as they are made."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    def watched(*arguments: Any) -> torch.Tensor:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return trained_product(*arguments)

    monkeypatch.setattr("adapter_service.lora.layer.trained_product", watched)
    return kept


def test_memory_is_of_the_device_that_trains_whatever_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 << 20)
    assert peak_memory_mb(torch.device("cuda", 0)) == 7
    assert peak_memory_mb(torch.device("cpu")) > 50
