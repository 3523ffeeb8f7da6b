"""PEFT is the reference of what is served: every rank and kind, alone and mixed, comes to PEFT's numbers and texts.

Logits are within 1e-5 of the largest of PEFT's at the same place; greedy tokens are the same ones.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.base_models.int8 import Int8Linear
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.folder import read_folder
from adapter_service.lora.layer import install
from adapter_service.lora.resident import ResidentAdapter
from adapter_service.model_utils import BaseModel, load_base
from tests.engine.serial import greedy, mixed, read
from tests.peft_reference import copy_of, greedy_by_generate, written_by_peft

# PEFT asks transformers for an attribute that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPT = [2 + (31 * place) % 250 for place in range(70)]  # longer than a chunk
TOKENS = 5
ALL_LINEAR: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "all-linear": ALL_LINEAR,
    "two targets": {"r": 9, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"]},
    "rank-stabilized": {"r": 16, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"},
    "rank pattern": {**ALL_LINEAR, "rank_pattern": {"q_proj": 2, r"1\.mlp\..*": 33}},
    "alpha pattern": {**ALL_LINEAR, "alpha_pattern": {"v_proj": 1, r"layers\.0\..*o_proj": 20}},
    "all patterns": {**ALL_LINEAR, "use_rslora": True, "rank_pattern": {"k_proj": 3}, "alpha_pattern": {"k_proj": 5}},
    "one layer": {"r": 4, "target_modules": ["v_proj"], "layers_to_transform": [1]},
}


@dataclass(frozen=True, slots=True)
class Reference:
    """What PEFT comes to: the greedy tokens, and the logits (tokens, vocabulary) before each."""

    adapter: ResidentAdapter | None
    tokens: list[int]
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class Bases:
    """`served` has our layers; `plain` is the same model without them, for PEFT."""

    served: BaseModel
    plain: Any

    def read(self, folder: Path) -> ResidentAdapter:
        layers = install(self.served.model, keep=self.served.model.get_output_embeddings())
        return ResidentAdapter.of(str(folder), read_folder(folder, layers), torch.float32, torch.device("cpu"))

    def reference(self, folder: Path, seed: int = 3, **options: Any) -> Reference:
        model = written_by_peft(copy_of(self.plain), folder, seed=seed, **options)
        return Reference(self.read(folder), *greedy_by_generate(model, PROMPT, TOKENS))

    def of_the_base(self) -> Reference:
        return Reference(None, *greedy_by_generate(self.plain, PROMPT, TOKENS))


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Logits (tokens, vocabulary)."""
    assert found.argmax(-1).tolist() == wanted.argmax(-1).tolist()
    assert float(((found - wanted).abs().amax(-1) / wanted.abs().amax(-1)).max()) < 1e-5


def with_wide_weights(model: Any) -> Any:
    """The same model with what its int8 layers hold written out, for PEFT, which does not know them."""
    wide = copy.deepcopy(model)
    for parent in list(wide.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Int8Linear):
                linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
                linear.weight.data = layer.weight.float() * layer.scale[:, None]
                setattr(parent, name, linear)
    return wide


@pytest.fixture(scope="module", params=["float32", "int8"])
def bases(request: pytest.FixtureRequest, tiny_base_folder: Path) -> Bases:
    """Decoded by compiled steps."""
    folder, quantized = tiny_base_folder, request.param == "int8"
    served = load_base(str(folder), bases_dir=folder, device="cpu", dtype="float32", use_8bit=quantized)
    plain = with_wide_weights(served.model) if quantized else copy.deepcopy(served.model)
    install(served.model, keep=served.model.get_output_embeddings())
    return Bases(served, plain)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_each_kind_is_pefts(bases: Bases, options: dict[str, Any], tmp_path: Path) -> None:
    wanted = bases.reference(tmp_path, **options)
    assert_close(greedy(mixed(bases.served), PROMPT, TOKENS, wanted.adapter), wanted.logits)


@given(rank=st.integers(1, 256), alpha=st.sampled_from([1, 16, 100]), rslora=st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_rank_is_pefts_beside_others(
    bases: Bases, tmp_path_factory: pytest.TempPathFactory, rank: int, alpha: int, rslora: bool
) -> None:
    """B is small, so that no rank and alpha drown the base."""
    options: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "target_modules": ["q_proj", "up_proj"],
    }
    wanted = bases.reference(tmp_path_factory.mktemp("rank"), std=0.02, **options)
    beside = bases.reference(tmp_path_factory.mktemp("beside"), seed=4, r=8, target_modules="all-linear")
    found = together(bases.served, [wanted, beside, bases.of_the_base()])
    assert_close(found[0], wanted.logits)


def together(base: BaseModel, wanted: list[Reference]) -> list[torch.Tensor]:
    """Logits of all of them, answered in one batch from the first step on."""
    return orderly(base, wanted, list(range(len(wanted))), [0] * len(wanted))


def orderly(base: BaseModel, wanted: list[Reference], joining: list[int], apart: list[int]) -> list[torch.Tensor]:
    """They join one after the other in that order, `apart` steps after each; each leaves when it has its tokens."""
    batch = mixed(base)
    sequences = [Sequence(PROMPT, len(PROMPT) + TOKENS, one.adapter) for one in wanted]
    logits: dict[Sequence, list[torch.Tensor]] = {sequence: [] for sequence in sequences}

    def take(sequence: Sequence, row: torch.Tensor) -> None:
        logits[sequence].append(row)
        sequence.next_token = int(row.argmax())
        if len(logits[sequence]) == TOKENS:
            batch.remove(sequence)

    def step() -> None:
        for sequence, row in batch.step():
            take(sequence, row)

    with torch.inference_mode():
        for place, steps in zip(joining, apart, strict=True):
            batch.add(sequences[place])
            take(sequences[place], read(batch, sequences[place]))
            batch.join(sequences[place])
            for _ in range(steps):
                if batch.rows:
                    step()
        while batch.rows:
            step()
        return [torch.stack(logits[sequence]) for sequence in sequences]


def test_they_join_and_leave_one_batch_in_every_order(bases: Bases, tmp_path: Path) -> None:
    """Three adapters of two rank classes and the base; who joined first leaves first."""
    names = ("all-linear", "two targets", "rank-stabilized")
    wanted = [bases.of_the_base()]
    for place, name in enumerate(names):
        (folder := tmp_path / str(place)).mkdir()
        wanted.append(bases.reference(folder, seed=place, **KINDS[name]))
    for place, joining in enumerate(itertools.permutations(range(len(wanted)))):
        found = orderly(bases.served, wanted, list(joining), [place % 3] * len(joining))
        for one, reference in zip(found, wanted, strict=True):
            assert_close(one, reference.logits)


def test_two_rows_of_one_adapter_beside_another(bases: Bases, tmp_path: Path) -> None:
    """Rows of one adapter read one copy of it, until another comes, and again when that has gone."""
    (tmp_path / "1").mkdir()
    one, other = bases.reference(tmp_path, **ALL_LINEAR), bases.reference(tmp_path / "1", seed=9, **ALL_LINEAR)
    found = orderly(bases.served, [one, one, other, one], [0, 1, 2, 3], [1, 1, 2, 0])
    for row, wanted in zip(found, [one, one, other, one], strict=True):
        assert_close(row, wanted.logits)


def test_half_the_scale_is_half_the_alpha(bases: Bases, tmp_path: Path) -> None:
    whole = bases.reference(tmp_path, **ALL_LINEAR)
    (tmp_path / "half").mkdir()
    half = bases.reference(tmp_path / "half", **(ALL_LINEAR | {"lora_alpha": 4}))
    assert_close(greedy(mixed(bases.served), PROMPT, TOKENS, whole.adapter, 0.5), half.logits)
    assert_close(greedy(mixed(bases.served), PROMPT, TOKENS, whole.adapter, 1.0), whole.logits)


def test_without_strength_it_is_the_base_to_the_bit(bases: Bases, tmp_path: Path) -> None:
    adapter = bases.reference(tmp_path, **ALL_LINEAR).adapter
    base = greedy(mixed(bases.served), PROMPT, TOKENS)
    assert torch.equal(greedy(mixed(bases.served), PROMPT, TOKENS, adapter, 0.0), base)


def test_a_row_of_the_base_beside_adapters_is_the_base(bases: Bases, tmp_path: Path) -> None:
    wanted = bases.of_the_base()
    adapted = bases.reference(tmp_path, **ALL_LINEAR)
    assert_close(together(bases.served, [adapted, wanted, adapted])[1], wanted.logits)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_each_kind_is_pefts_through_modules(bases: Bases, options: dict[str, Any], tmp_path: Path) -> None:
    wanted, batch = bases.reference(tmp_path, **options), mixed(bases.served, kernel="modules")
    assert_close(greedy(batch, PROMPT, TOKENS, wanted.adapter), wanted.logits)


@pytest.mark.model
def test_a_real_base_is_pefts(small_base: BaseModel, bases_dir: Path, tmp_path: Path) -> None:
    from tests.conftest import SMALL_BASE

    plain = load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32").model
    bases = Bases(small_base, plain)
    wanted = bases.reference(tmp_path, r=8, target_modules="all-linear", std=0.01)
    assert_close(greedy(mixed(small_base), PROMPT, TOKENS, wanted.adapter), wanted.logits)
