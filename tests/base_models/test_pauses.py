"""What is done in a pause sees nothing of the pass that it interrupts, and leaves nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
import torch

from adapter_service.base_models import pauses
from adapter_service.base_models.attention import Packing, packed, packing_in_use
from adapter_service.base_models.layout import Block, Segment
from adapter_service.base_models.pauses import apart, pause_here, pausing

THREADS = torch.get_num_threads()
PACKING = Packing((Segment(0, (Block(2, 4),)),))


def modes() -> dict[str, Any]:
    """All that a pass may set on its thread."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "hooks": torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
    }


PASSES: dict[str, Callable[[], Any]] = {
    "forward": nullcontext,
    "backward": torch.no_grad,
    "judging": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "checkpointed": lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", PASSES)
def test_it_runs_in_the_same_modes_wherever_it_is_and_the_pass_goes_on_in_its_own(name: str, fails: bool) -> None:
    seen: list[dict[str, Any]] = []

    def work() -> None:
        seen.append(modes())
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(THREADS + 2)
        if fails:
            raise KeyError

    with PASSES[name]():
        before = modes()
        with pytest.raises(KeyError) if fails else nullcontext():
            apart(work, threads=THREADS + 1)
        assert modes() == before
    hooks = name == "checkpointed"  # they are there, and called for nothing: no gradient is wanted
    expected = {"gradients": False, "inference": False, "autocast": False, "threads": THREADS + 1, "hooks": hooks}
    assert seen == [{**expected, "dtype": torch.float32}]


def test_it_is_in_no_context_of_the_pass_and_leaves_none_open() -> None:
    told: ContextVar[str] = ContextVar("told", default="nothing")

    def work() -> tuple[str, object, object]:
        found = told.get(), pauses._pause.get(), packing_in_use()
        told.set("by the work")
        return found

    token = told.set("by the pass")
    with pausing(lambda: None), packed(PACKING):
        assert apart(work, threads=THREADS) == ("nothing", None, None)
        assert apart(work, threads=THREADS) == ("nothing", None, None)
        assert (told.get(), packing_in_use()) == ("by the pass", PACKING)
    told.reset(token)


def test_what_is_made_while_an_adapter_is_judged_can_be_trained() -> None:
    with torch.inference_mode():
        made = apart(lambda: torch.nn.Parameter(torch.ones(3)), threads=THREADS)
    made.square().sum().backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None


def test_nothing_of_it_is_kept_for_a_pass_that_is_run_again() -> None:
    kept: list[torch.Tensor] = []
    weight = torch.nn.Parameter(torch.ones(3, 3))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = apart(lambda: weight @ weight, threads=THREADS)
        assert (kept, made.requires_grad) == ([], False)
        assert (weight @ weight).requires_grad
    assert kept


def test_a_pause_holds_for_its_block_and_an_inner_one_for_its_own() -> None:
    told: list[str] = []
    pause_here()
    with pausing(lambda: told.append("outer")):
        pause_here()
        with pausing(lambda: told.append("inner")):
            pause_here()
        with pytest.raises(KeyError), pausing(lambda: None):
            raise KeyError
        pause_here()
    pause_here()
    assert told == ["outer", "inner", "outer"]
