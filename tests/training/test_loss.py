"""The loss in blocks against the plain one over full logits: value, gradient, memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from adapter_service.base_models.pauses import pausing
from adapter_service.errors import BaseModelError
from adapter_service.training import loss as loss_module
from adapter_service.training.loss import Head, completion_loss, token_losses

ROWS, HIDDEN, VOCABULARY = 37, 6, 101
NORMALIZER = 50.0

SHAPINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": torch.linspace(-1, 1, VOCABULARY)},
    "softcap": {"softcap": 3.0},
    "scale": {"scale": 0.25},
    "both": {"softcap": 3.0, "scale": 0.25},
}


def some_hidden(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, HIDDEN, generator=generator).to(dtype).requires_grad_()


def some_head(dtype: torch.dtype = torch.float32, **shaping: Any) -> Head:
    generator = torch.Generator().manual_seed(2)
    return Head(torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype), **shaping)


TARGETS = torch.randint(VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(3))


def plain_losses(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden.float(), head.weight.float(), head.bias) * head.scale
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    return cross_entropy(logits, TARGETS, reduction="none")


def value_and_gradient(
    of: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    value = of(hidden)
    (gradient,) = torch.autograd.grad(value, hidden)
    return value.detach(), gradient


def in_blocks(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(loss_module, "_BLOCK_ROWS", rows)
    monkeypatch.setattr(loss_module, "_BLOCK_COLUMNS", {"cpu": columns})


@pytest.mark.parametrize("block", [(256, 4096), (37, 101), (1, 1), (8, 30), (10, 101), (40, 100)])
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_value_and_gradient_are_those_of_full_logits(
    shaping: str, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks(monkeypatch, *block)
    head = some_head(**SHAPINGS[shaping])
    ours = value_and_gradient(lambda h: completion_loss(h, TARGETS, head, NORMALIZER), some_hidden())
    plain = value_and_gradient(lambda h: plain_losses(h, head).sum() / NORMALIZER, some_hidden())
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_there_is_a_pause_before_each_block_of_rows_and_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, 10, 30)  # of 37 rows and 101 columns
    pauses: list[bool] = []
    with pausing(lambda: pauses.append(torch.is_grad_enabled())):
        completion_loss(some_hidden(), TARGETS, some_head(), NORMALIZER)
        assert len(pauses) == 4 * 4
        token_losses(some_hidden(), TARGETS, some_head())
    assert pauses == [False] * (2 * 4 * 4)


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_token_losses_are_those_of_full_logits(shaping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, 8, 30)
    head = some_head(**SHAPINGS[shaping])
    torch.testing.assert_close(token_losses(some_hidden(), TARGETS, head), plain_losses(some_hidden(), head).detach())


def test_bfloat16_is_close_and_keeps_its_type() -> None:
    head, hidden = some_head(torch.bfloat16), some_hidden(torch.bfloat16)
    value, gradient = value_and_gradient(lambda h: completion_loss(h, TARGETS, head, NORMALIZER), hidden)
    wide, wide_gradient = value_and_gradient(lambda h: plain_losses(h, head).sum() / NORMALIZER, hidden)
    assert gradient.dtype is torch.bfloat16
    torch.testing.assert_close(value, wide, rtol=0.01, atol=0)
    assert (gradient - wide_gradient).norm() < 0.02 * wide_gradient.norm()


def test_the_gradient_from_above_is_multiplied_in() -> None:
    head = some_head()
    _, once = value_and_gradient(lambda h: completion_loss(h, TARGETS, head, 1.0), some_hidden())
    _, thrice = value_and_gradient(lambda h: 3 * completion_loss(h, TARGETS, head, 1.0), some_hidden())
    torch.testing.assert_close(thrice, 3 * once)


def test_logits_far_apart_give_finite_losses() -> None:
    head = some_head(scale=1e4)
    value, gradient = value_and_gradient(lambda h: completion_loss(h, TARGETS, head, NORMALIZER), some_hidden())
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_later_block_with_far_larger_logits_leaves_nothing_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, 8, 30)
    head, hidden = some_head(), some_hidden()
    head.weight[95] = 500 * hidden.detach()[0]
    ours = value_and_gradient(lambda h: completion_loss(h, TARGETS, head, NORMALIZER), hidden)
    plain = value_and_gradient(lambda h: plain_losses(h, head).sum() / NORMALIZER, hidden)
    assert float(plain_losses(hidden, head).detach()[0]) > 100
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)


def test_a_value_that_is_not_a_number_is_not_hidden() -> None:
    hidden = some_hidden().detach()
    hidden[3, 2] = torch.nan
    assert completion_loss(hidden, TARGETS, some_head(), NORMALIZER).isnan()


class LargestResult(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers how many elements the largest tensor had that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_full_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks(monkeypatch, 8, 30)
    hidden, head = some_hidden(), some_head()
    with LargestResult() as largest:  # type: ignore[no-untyped-call]
        completion_loss(hidden, TARGETS, head, NORMALIZER).backward()  # type: ignore[no-untyped-call]
        token_losses(hidden, TARGETS, head)
    assert 0 < largest.elements <= max(8 * 30, ROWS * HIDDEN)


def of_model(**config: Any) -> Head:
    from transformers import PretrainedConfig

    linear = torch.nn.Linear(2, 3, bias=False)
    return Head.of(SimpleNamespace(get_output_embeddings=lambda: linear, config=PretrainedConfig(**config)))


def test_the_head_takes_softcap_and_scale_from_the_config() -> None:
    head = of_model(final_logit_softcapping=30.0, logit_scale=0.0625, logits_scaling=1)
    assert (head.softcap, head.scale, head.bias) == (30.0, 0.0625, None)


def test_a_head_of_unknown_arithmetic_is_refused() -> None:
    with pytest.raises(BaseModelError, match="does more than the trainer knows"):
        of_model(logits_scaling=8.0)
