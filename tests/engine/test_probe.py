"""What a base is found able to do when it is loaded: shown with bases that are not."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from adapter_service.engine.batch import MixedBatch, SingleBatch
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import Chosen, choose_batch
from adapter_service.model_utils import BaseModel, load_base

if TYPE_CHECKING:
    from pathlib import Path


def chosen(base: BaseModel, rows: int = 4) -> Chosen:
    return choose_batch(base, "plain", rows=rows, prefixes=PrefixCache(CHUNK_TOKENS, 0))


@pytest.fixture
def own_base(tiny_base_folder: Path) -> BaseModel:
    """To be changed."""
    folder = tiny_base_folder
    return load_base(str(folder), bases_dir=folder, device="cpu", dtype="bfloat16", use_8bit=True)


def test_a_base_whose_tokens_meet_in_attention_alone_is_mixed(tiny_base: BaseModel) -> None:
    found = chosen(tiny_base)
    assert isinstance(found.batch, MixedBatch)
    assert isinstance(found.new_batch(2), MixedBatch)
    assert "up to 4 rows in one pass" in found.note


def test_a_base_that_cannot_be_packed_answers_one_by_one_and_always_alike(tiny_base: BaseModel) -> None:
    found = chosen(replace(tiny_base, packs_rows=False))
    assert isinstance(found.batch, SingleBatch)
    assert isinstance(found.new_batch(2), SingleBatch)
    assert found.is_invariant


class Looking(nn.Module):
    """A layer in which a token sees the one before it, as a convolution does: nothing that the batch keeps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y + 0.5 * torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)


def test_a_base_that_looks_back_in_its_own_way_answers_one_by_one(own_base: BaseModel) -> None:
    layer = own_base.model.model.layers[0]
    layer.mlp = Looking(layer.mlp)
    assert isinstance(chosen(own_base).batch, SingleBatch)


class Demanding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise TypeError("a cache of its own is wanted")


def test_a_base_that_does_not_run_in_our_way_answers_one_by_one(own_base: BaseModel) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        raise TypeError("a cache of its own is wanted")

    own_base.model.model.layers[0].mlp.forward = forward
    assert isinstance(chosen(own_base).batch, SingleBatch)


def test_a_base_of_layers_that_want_more_answers_one_by_one(own_base: BaseModel) -> None:
    own_base.model.model.layers[0].mlp = Demanding()
    assert isinstance(chosen(own_base).batch, SingleBatch)


class Neighbourly(nn.Linear):
    """As a kernel that adds up in another order for more rows, and rounds one row in fifty otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        is_rare = torch.frac(x.float().sum(-1, keepdim=True).abs() * 1234.567) < 0.02
        return torch.where(is_rare & (x.shape[0] > 2), y * 1.01, y)


def test_a_kernel_that_rarely_minds_the_company_is_found_out(own_base: BaseModel) -> None:
    """Where the processor gives equal bits otherwise; a few tokens' logits do not show it."""
    if not chosen(own_base).is_invariant:
        pytest.skip("this processor's kernels mind it anyway")
    model = own_base.model
    head = model.get_output_embeddings()
    rare = Neighbourly(head.in_features, head.out_features, bias=False, dtype=torch.bfloat16)
    rare.weight = copy.deepcopy(head.weight)
    model.set_output_embeddings(rare)
    assert not chosen(own_base).is_invariant
