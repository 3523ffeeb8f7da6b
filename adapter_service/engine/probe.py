"""What this base on this machine can do, asked of it once at the start.

Which kernel makes its steps, whether it takes batches, and whether answers are equal in every batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from adapter_service.base_models.threads import threads_for
from adapter_service.engine.batch import Batch, MixedBatch, SingleBatch, read_whole
from adapter_service.engine.kernels import Kernel, choose_kernel
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.sequence import Sequence
from adapter_service.errors import BaseModelError
from adapter_service.lora.frozen import is_linear, widths
from adapter_service.model_utils import BaseModel
from adapter_service.settings import KernelSetting

_STEPS = 3
# Another one at the start would say the same; a prompt longer than a chunk, and one within a chunk.
_LENGTHS = (CHUNK_TOKENS + 9, 7)
# Numbers that come out of each kind of layer. Sums that are rounded to 16 bits come out the same but for one in ten
# thousand, whatever their order was, and a few tokens of a small base are no more than that.
_OUTPUTS = 2**16
# What an evaluation's prompts have in common is read once: of a node's commands nine tenths of each.
_OWN_PREFIX_BYTES = 2**26
_TOLERANCE = {torch.float32: 0.001}
_TOLERANCE_16_BITS = 0.1
# Of weights that are rounded to 8 bits for steps, as far as the norm of a token's logits may be off.
_TOLERANCE_INT8 = 0.3
_TIMED_STEPS = 4


@dataclass(frozen=True, slots=True)
class Chosen:
    """`is_invariant`: whether a row's numbers are the same to the bit whoever is beside it."""

    batch: Batch
    new_batch: Callable[[int], Batch]
    kernel: Kernel
    is_invariant: bool
    note: str


@torch.inference_mode()
def choose_batch(
    base: BaseModel, template_id: str, *, rows: int, prefixes: PrefixCache, kernel: KernelSetting = "auto"
) -> Chosen:
    """The batch for `base`: of any adapters in one pass where it gives what the base alone gives, else one by one.

    `new_batch` makes another, which keeps prefixes of its own.

    Raises:
        BaseModelError: `kernel` is one that this base's steps cannot be made by.
    """
    started = time.monotonic()

    def mixed(kernel: Kernel, rows: int, prefixes: PrefixCache) -> MixedBatch:
        return MixedBatch(base, rows=rows, template_id=template_id, prefixes=prefixes, decoder=kernel.decoder)

    def own(kernel: Kernel, rows: int) -> MixedBatch:
        return mixed(kernel, rows, PrefixCache(CHUNK_TOKENS, _OWN_PREFIX_BYTES))

    def new_single(rows: int) -> SingleBatch:  # noqa: ARG001 - it has no tensors of so many
        return SingleBatch(base)

    found = []
    for candidate in _kernels(base, kernel):
        batch = own(candidate, rows)
        if _gives_the_same(base, batch, _tolerance(base, candidate)):
            found.append(replace(candidate, step_seconds=_step_seconds(batch)))
    if found:
        chosen = min(found, key=lambda kernel: kernel.step_seconds or 0.0)
        is_invariant = (chosen.decoder or _layers_are_invariant(base, rows)) and _is_invariant(own(chosen, rows), rows)
        words = "the same bits in every batch" if is_invariant else "not the same last bits in every batch"
        seconds = time.monotonic() - started
        note = f"up to {rows} rows in one pass, {words}; steps: {chosen.words} (probed in {seconds:.1f} s)"
        return Chosen(mixed(chosen, rows, prefixes), partial(own, chosen), chosen, bool(is_invariant), note)
    alone = Kernel("modules", f"{base.name} answers one row at a time")
    if kernel not in {"auto", "modules"}:
        why = "steps that are made so do not come to what the base comes to" if base.packs_rows else alone.reason
        raise BaseModelError(f"serving.kernel is {kernel!r}, and {why}; use 'auto'")
    return Chosen(SingleBatch(base), new_single, alone, is_invariant=True, note=alone.reason)


def _kernels(base: BaseModel, setting: KernelSetting) -> Iterator[Kernel]:
    """Those to try; none for a base whose rows cannot lie together."""
    if not base.packs_rows:
        return
    first = choose_kernel(base, setting)
    yield first
    if setting == "auto" and first.decoder is not None:
        yield Kernel("modules", "compiled steps are slower here, or do not come to what the base comes to")


def _tolerance(base: BaseModel, kernel: Kernel) -> float:
    if kernel.name == "int8":
        return _TOLERANCE_INT8
    return _TOLERANCE.get(base.precision.dtype, _TOLERANCE_16_BITS)


def _step_seconds(batch: MixedBatch) -> float:
    """The quickest of a few steps of one row."""
    sequence, _ = _read(batch, _prompt(batch.base, _LENGTHS[1]), steps=_TIMED_STEPS + 1)
    batch.join(sequence)
    seconds = []
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        batch.step()
        seconds.append(time.perf_counter() - started)
    batch.remove(sequence)
    return min(seconds)


def _prompt(base: BaseModel, tokens: int) -> list[int]:
    vocabulary = base.vocabulary
    return [(20 + 7 * place) % vocabulary for place in range(tokens)]


def _gives_the_same(base: BaseModel, batch: MixedBatch, tolerance: float) -> bool:
    """Whether prompts and steps in `batch` come to what the model's own way comes to, within its precision."""
    prompts = [_prompt(base, length) for length in _LENGTHS]
    try:
        found = _logits(batch, prompts)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):  # it wants its own mask or cache
        return False
    for prompt, (tokens, logits) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt + tokens[:-1]], device=base.device)
        wanted = base.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
        if bool(((logits.float() - wanted).norm(dim=-1) > tolerance * wanted.norm(dim=-1)).any()):
            return False
    return True


def _is_invariant(batch: MixedBatch, rows: int) -> bool:
    """Whether one row's steps give the same numbers beside 1, 2, … others; prompts are read by themselves anyway."""
    base = batch.base
    prompts = [_prompt(base, _LENGTHS[0]), *(_prompt(base, 5 + 11 * number) for number in range(rows - 1))]
    begun = [_read(batch, prompt)[0] for prompt in prompts]
    try:
        alone = _first_beside(batch, begun[:1])
        return all(torch.equal(_first_beside(batch, begun[:count]), alone) for count in range(2, rows + 1))
    finally:
        for sequence in begun:
            batch.remove(sequence)


def _first_beside(batch: MixedBatch, begun: list[Sequence]) -> torch.Tensor:
    """Logits (steps, vocabulary) of the first one, which grows with the others; all are left as they were."""
    branches = [batch.fork(sequence) for sequence in begun]
    try:
        return torch.stack(_grown(batch, branches)[branches[0]])
    finally:
        for branch in branches:
            batch.remove(branch)


def _layers_are_invariant(base: BaseModel, rows: int) -> bool:
    """Whether each kind of linear layer that the base has multiplies a row to the same bits beside 1, 2, … others."""
    kinds = {(type(layer), *widths(layer)): layer for layer in base.model.modules() if is_linear(layer)}
    return all(_is_invariant_layer(layer, base, rows) for layer in kinds.values())


def _is_invariant_layer(layer: torch.nn.Module, base: BaseModel, rows: int) -> bool:
    inputs, outputs = widths(layer)
    count = max(-(-_OUTPUTS // outputs), 2 * rows)
    numbers = torch.randn(count, 1, inputs, generator=torch.Generator().manual_seed(0))
    x = numbers.to(device=base.device, dtype=base.precision.dtype)

    def product(together: int) -> torch.Tensor:
        with threads_for(together):
            return torch.cat([layer(some) for some in torch.split(x, together)])

    alone = product(1)
    return all(torch.equal(product(together), alone) for together in range(2, rows + 1))


def _logits(batch: MixedBatch, prompts: list[list[int]]) -> list[tuple[list[int], torch.Tensor]]:
    """The first tokens of each prompt's greedy answer, and the logits (tokens, vocabulary) that they came from."""
    begun = [_read(batch, prompt) for prompt in prompts]
    grown = _grown(batch, [sequence for sequence, _ in begun])
    logits = [torch.stack([first, *grown[sequence]]) for sequence, first in begun]
    for sequence, _ in begun:
        batch.remove(sequence)
    return [(rows.argmax(-1).tolist(), rows) for rows in logits]


def _read(batch: MixedBatch, prompt: list[int], *, steps: int = _STEPS) -> tuple[Sequence, torch.Tensor]:
    """A sequence with its first token, and the logits (vocabulary,) that it came from."""
    sequence = Sequence(prompt, len(prompt) + steps)
    logits = read_whole(batch, sequence)
    sequence.next_token = int(logits.argmax())
    return sequence, logits


def _grown(batch: MixedBatch, sequences: list[Sequence]) -> dict[Sequence, list[torch.Tensor]]:
    """Logits (vocabulary,) of each one's further steps."""
    logits: dict[Sequence, list[torch.Tensor]] = {sequence: [] for sequence in sequences}
    for sequence in sequences:
        batch.join(sequence)
    for _ in range(_STEPS - 1):
        for sequence, row in batch.step():
            logits[sequence].append(row)
            sequence.next_token = int(row.argmax())
    return logits
