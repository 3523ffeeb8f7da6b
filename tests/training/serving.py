"""Answers given in the pauses of a run, as the engine gives them: on the same base, apart from the pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from adapter_service.base_models.pauses import apart
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel
from tests.training.small_run import fresh_adapter


class Serving:
    """A prompt of five tokens and one token more in each pause that `at` says, with an adapter of its own."""

    def __init__(self, base: BaseModel, at: Callable[[int], bool] = lambda _: True, *, b: float = 0.3) -> None:
        self._base, self._at = base, at
        self._adapter = fresh_adapter(base, b=b).frozen_copy(base.adapter_dtype)
        self.pauses = 0
        self.answers: list[bytes] = []

    def pause(self) -> None:
        place, self.pauses = self.pauses, self.pauses + 1
        if self._at(place):
            self.answers.append(self.answer())

    def answer(self) -> bytes:
        """A digest of every bit of the logits, which themselves are a megabyte of a real base."""
        return apart(self._logits, threads=self._base.precision.threads)

    @torch.inference_mode()
    def _logits(self) -> bytes:
        from transformers import DynamicCache

        torch.rand(3)  # as sampling without a seed
        model, cache = self._base.model, DynamicCache(config=self._base.model.config)
        found = hashlib.sha256()
        with using(self._adapter):
            for ids in ([5, 6, 7, 8, 9], [10]):
                output = model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
                found.update(output.logits.float().numpy().tobytes())
        return found.digest()
