"""Which precision is chosen where, and why."""

from __future__ import annotations

import json

import pytest
import torch

from adapter_service.base_models import precision
from adapter_service.base_models.precision import choose_precision
from adapter_service.errors import BaseModelError


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("faster", [torch.bfloat16, torch.float32])
def test_a_processor_gets_the_type_that_it_multiplies_faster(
    monkeypatch: pytest.MonkeyPatch, no_cuda: None, faster: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "gemm_gflops", lambda dtype, **_: 200.0 if dtype is faster else 90.0)
    chosen = choose_precision()
    assert (chosen.device, chosen.dtype, chosen.quantization) == ("cpu", faster, "none")
    assert "200 GFLOP/s" in chosen.reason
    assert "90 GFLOP/s" in chosen.reason


def test_the_probe_measures_a_speed_and_takes_the_best_of_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((8, 8, 8), (64, 128, 64))
    assert precision.gemm_gflops(torch.float32, repeats=1, shapes=shapes) > 0
    monkeypatch.setattr(precision, "_gflops", lambda _, shape, repeats: float(shape[0] * repeats))
    assert precision.gemm_gflops(torch.float32, repeats=2, shapes=shapes) == 128.0


def test_every_count_of_threads_is_measured_on_that_many_and_none_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, no_cuda: None
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("adapter_service.base_models.threads.usable_threads", lambda: {1: "one", 2: "both"})
    monkeypatch.setattr(precision, "gemm_gflops", lambda *_, **__: 100.0 * torch.get_num_threads())
    chosen = choose_precision(dtype="float32")
    assert (chosen.threads, torch.get_num_threads()) == (2, before)
    assert chosen.reason == (
        "set by model.dtype; 2 threads, both, measured (1 thread 100 GFLOP/s, 2 threads 200 GFLOP/s)"
    )


def test_what_is_set_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gemm_gflops", pytest.fail)
    chosen = choose_precision(device="cpu", dtype="float32", threads=2)
    assert (chosen.dtype, chosen.threads) == (torch.float32, 2)
    assert chosen.reason == "set by model.dtype; 2 threads, set by model.threads"


def test_cuda_is_taken_where_it_is(cuda: None) -> None:
    chosen = choose_precision()
    assert (chosen.device, chosen.dtype, chosen.quantization) == ("cuda", torch.bfloat16, "none")


def test_a_card_without_bfloat16_gets_float16(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert choose_precision().dtype is torch.float32


def test_eight_bits_are_ours_on_a_processor_and_bitsandbytes_on_cuda(cuda: None) -> None:
    found = [choose_precision(device=d, dtype="float32", use_8bit=True).quantization for d in ("cpu", "cuda")]
    assert found == ["int8", "bnb-int8"]


def test_four_bits_are_for_cuda(cuda: None) -> None:
    assert choose_precision(use_4bit=True).quantization == "bnb-nf4"


def test_four_bits_on_a_processor_are_refused_with_what_works(no_cuda: None) -> None:
    with pytest.raises(BaseModelError, match=r"4-bit bases need CUDA.*use_8bit works on a CPU"):
        choose_precision(use_4bit=True)


def test_cuda_without_a_device_is_refused(no_cuda: None) -> None:
    with pytest.raises(BaseModelError, match="no CUDA device is visible; use 'auto' or 'cpu'"):
        choose_precision(device="cuda")


def test_both_quantizations_at_once_are_refused() -> None:
    with pytest.raises(BaseModelError, match="choose one"):
        choose_precision(use_8bit=True, use_4bit=True)


def test_what_was_chosen_can_be_told_as_json() -> None:
    told = json.loads(json.dumps(choose_precision(device="cpu", dtype="bfloat16").to_dict()))
    assert told["dtype"] == "bfloat16"
    assert set(map(type, told.values())) == {str}
