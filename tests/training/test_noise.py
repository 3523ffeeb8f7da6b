"""Noise on embeddings: its size, where there is none, and what nothing changes."""

from __future__ import annotations

import pytest
import torch

from adapter_service.base_models.attention import kept_prefix
from adapter_service.base_models.pauses import apart
from adapter_service.model_utils import BaseModel
from adapter_service.rendering import RenderedSample
from adapter_service.training.forward import collate, completion_states
from adapter_service.training.loop import Hooks
from adapter_service.training.noise import EmbeddingNoise
from adapter_service.training.packing import lay_out
from adapter_service.training.prefixes import KeptPrefixes
from tests.training.small_run import fresh_adapter, run, small_settings, some_samples


def drawing(base: BaseModel, size: float, seed: int = 0) -> EmbeddingNoise:
    noise = EmbeddingNoise(base.model, size)
    noise.generator = torch.Generator().manual_seed(seed)
    return noise


def test_it_has_the_size_that_is_asked_for_and_no_direction(tiny_base: BaseModel) -> None:
    embedding, ids = tiny_base.model.get_input_embeddings(), torch.arange(200)[None]
    plain = embedding(ids)
    with drawing(tiny_base, 0.5).added():
        added = embedding(ids) - plain
    assert float(added.std()) == pytest.approx(0.5 * float(plain.std()), rel=0.05)
    assert float(added.abs().max()) <= 3**0.5 * 0.5 * float(plain.std()) * 1.001
    assert abs(float(added.mean())) < 0.05 * float(added.std())


def test_one_pass_has_it_and_no_other(tiny_base: BaseModel) -> None:
    embedding, ids = tiny_base.model.get_input_embeddings(), torch.arange(8)[None]
    plain, noise = embedding(ids), drawing(tiny_base, 0.5)
    with noise.added():
        assert not torch.equal(embedding(ids), plain)
        assert torch.equal(embedding(ids), plain)  # answered in a pause of the pass
    with noise.added():
        pass  # one that has failed before it read anything
    assert torch.equal(embedding(ids), plain)


def test_what_is_kept_has_none(tiny_base: BaseModel) -> None:
    instruction = tuple(range(100, 120))
    samples = [RenderedSample((*instruction, *one.ids), 20 + one.completion_start) for one in some_samples(8)]
    kept = KeptPrefixes(tiny_base.model, tiny_base.device, samples)
    (plan,) = lay_out(samples, 10_000, packs=True, shares=True, kept=[kept.tokens_of(one) for one in samples])
    batch = collate(tiny_base, samples, plan)
    with torch.no_grad():
        noisy = completion_states(tiny_base.model, batch, kept, drawing(tiny_base, 0.5))
        assert not torch.equal(noisy, completion_states(tiny_base.model, batch, kept))
    (in_use,) = kept.of([instruction])
    assert in_use is not None
    for layer, (keys, values) in kept_prefix(tiny_base.model, torch.tensor([instruction])).items():
        assert torch.equal(in_use[layer][0], keys)
        assert torch.equal(in_use[layer][1], values)


def test_training_with_it_is_the_same_for_every_preset_and_whatever_is_answered_between(tiny_base: BaseModel) -> None:
    def answer() -> None:
        apart(lambda: tiny_base.model(input_ids=torch.arange(5)[None]), threads=tiny_base.precision.threads)

    plain, fast, small, paused = (
        run(tiny_base, some_samples(12), small_settings(**how), adapter=fresh_adapter(tiny_base, b=0.3), hooks=hooks)
        for how, hooks in (
            ({}, Hooks()),
            ({"embedding_noise": 0.3}, Hooks()),
            ({"embedding_noise": 0.3, "preset": "small"}, Hooks()),
            ({"embedding_noise": 0.3}, Hooks(pause=answer)),
        )
    )
    assert fast.weights == small.weights == paused.weights
    assert fast.weights != plain.weights
