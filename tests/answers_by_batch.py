"""Answers by the batch that serves, without an engine around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from adapter_service.engine.requests import Sampling

if TYPE_CHECKING:
    from adapter_service.engine.answer import Answer
    from adapter_service.engine.batch import Batch
    from adapter_service.lora.resident import ResidentAdapter
    from adapter_service.model_utils import BaseModel


def new_batch(base: BaseModel, rows: int = 8, prefix_bytes: int = 0) -> Batch:
    """As the engine's, but over the weights as they are, so that tests can hold answers against the model's."""
    from adapter_service.engine.batch import MixedBatch
    from adapter_service.engine.kernels import Kernel, make_kernel
    from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
    from adapter_service.engine.probe import choose_batch

    prefixes, kernel = PrefixCache(CHUNK_TOKENS, prefix_bytes), make_kernel(base, "as_loaded")
    if isinstance(kernel, Kernel) and base.packs_rows:
        return MixedBatch(base, rows=rows, template_id="template", prefixes=prefixes, decoder=kernel.decoder)
    return choose_batch(base, "template", rows=rows, prefixes=prefixes, kernel="modules").batch


def answers(
    base: BaseModel,
    prompts: Sequence[list[int]],
    samplings: Sequence[Sampling],
    adapter: ResidentAdapter | None = None,
    pause: Callable[[], None] = lambda: None,
) -> list[Answer]:
    from adapter_service.base_models.pauses import pausing
    from adapter_service.engine.answering import answer_all

    batch = new_batch(base)
    with pausing(pause):
        return answer_all(base, batch, prompts, samplings, adapter)


def decode(base: BaseModel, prompt: list[int], sampling: Sampling, adapter: ResidentAdapter | None = None) -> list[int]:
    """The answer's tokens, without the end token."""
    return answers(base, [prompt], [sampling], adapter)[0].tokens
