"""What frozen layers gave in a pass, for one that goes through them again.

A decoder layer that is run a second time for its backward pass needs what its linear layers gave, and not their
products once more. Of those that are trained, outputs no wider than their input are kept: a byte saves most there,
and all of them together are a fraction of what the wide ones would be. SmolLM2-135M trains in 0.85 of the time so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from adapter_service.lora.adapter import LowRankPair

# From the gradient of a layer's output (rows, out) to that of its input (rows, in).
InputGradient = Callable[[torch.Tensor], torch.Tensor]


class KeptOutputs:
    """Of one stretch of layers, in the order of the calls, which is the same each time."""

    def __init__(self) -> None:
        self._made: list[tuple[torch.Tensor, int]] = []
        self._next = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep what the layers inside make; from the second time on, they take it from here."""
        self._next = 0
        token = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(token)

    def taken_or_made(self, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The next output as it was made before; else, or where somebody has written to it since, made now."""
        place, self._next = self._next, self._next + 1
        if place == len(self._made):
            made = make()
            self._made.append((made.detach(), made._version))
            return made
        kept, version = self._made[place]
        return kept.detach() if kept._version == version else make()


_in_use: ContextVar[KeptOutputs | None] = ContextVar("kept_outputs", default=None)


def kept_outputs_in_use() -> KeptOutputs | None:
    return _in_use.get()


def input_gradient_of(linear: nn.Module) -> InputGradient | None:
    """None of a kind that keeps this to itself, as bitsandbytes' layers do; their outputs are not kept."""
    if type(linear) is nn.Linear:
        return lambda gradient: gradient @ linear.weight
    if type(linear).__name__ == "Conv1D":  # GPT-2's weights lie (in, out)
        return lambda gradient: gradient @ linear.weight.T  # type: ignore[operator]
    own: InputGradient | None = getattr(linear, "input_gradient", None)
    return own


def product(
    x: torch.Tensor, linear: nn.Module, input_gradient: InputGradient, pair: LowRankPair, outputs: KeptOutputs
) -> torch.Tensor:
    """`linear(x) + pair.product(x)`, (..., in) to (..., out), as `outputs` has it or made now; without dropout."""
    rows = x.reshape(-1, x.shape[-1])
    y: torch.Tensor = _Product.apply(rows, pair.a, pair.b, pair.scale, linear, input_gradient, outputs)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], pair.b.shape[0])


class _Product(torch.autograd.Function):
    """linear(x) + (x (scale A)ᵀ) Bᵀ of rows x: its backward pass needs them and r numbers of each, not the output."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        linear: nn.Module,
        input_gradient: InputGradient,
        outputs: KeptOutputs,
    ) -> torch.Tensor:
        down, up = (a * scale).to(rows.dtype), b.to(rows.dtype)  # (r, in), (out, r)
        inner = rows @ down.T  # (rows, r)
        ctx.save_for_backward(rows, inner, down, up)
        ctx.scale, ctx.input_gradient = scale, input_gradient

        def make() -> torch.Tensor:
            y: torch.Tensor = linear(rows)
            return y.addmm_(inner, up.T)

        return outputs.taken_or_made(make)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, down, up = ctx.saved_tensors
        (gradient,) = grads  # (rows, out)
        of_inner = gradient @ up  # (rows, r)
        of_a = (of_inner.T @ rows).float().mul_(ctx.scale)
        of_b = (gradient.T @ inner).float()
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = ctx.input_gradient(gradient).addmm_(of_inner, down)
        return of_x, of_a, of_b, None, None, None, None
