"""What this base on this machine can do, asked of it once at the start.

Which kernel makes its steps, whether it takes batches, and whether answers are equal in every batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from adapter_service.base_models.threads import threads_for
from adapter_service.engine.batch import Batch, MixedBatch, SingleBatch, read_whole
from adapter_service.engine.kernels import Kernel, NoKernel, kernels_to_try, make_kernel
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.sequence import Sequence
from adapter_service.errors import BaseModelError, InvalidParameterError
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.frozen import is_linear, widths
from adapter_service.lora.layer import install
from adapter_service.lora.resident import ResidentAdapter
from adapter_service.model_utils import BaseModel
from adapter_service.settings import KernelSetting

# A step is recorded when its shape comes again, and replayed after that.
_STEPS = 4
# Another one at the start would say the same; a prompt longer than a chunk, and one within a chunk.
_LENGTHS = (CHUNK_TOKENS + 9, 7)
# Numbers that come out of each kind of layer. Sums that are rounded to 16 bits come out the same but for one in ten
# thousand, whatever their order was, and a few tokens of a small base are no more than that.
_OUTPUTS = 2**16
# What an evaluation's prompts have in common is read once: of a node's commands nine tenths of each.
_OWN_PREFIX_BYTES = 2**26
_TOLERANCE = {torch.float32: 0.001}
_TOLERANCE_16_BITS = 0.1
# Of weights that are rounded for steps. Random bases with wide weights come to 0.004 and 0.15.
_TOLERANCE_OF_COPIES = {"float16": 0.02, "int8": 0.3}
_TIMED_STEPS = 3
_TIMED_CHUNKS = 3
# The time of a whole chunk, over that of the modules. Those take longer for a shorter one, and near a tie every start
# should choose alike.
_SLOWER_PROMPTS = 1.1
# The times of one row and of many rows, of one way over the other's, multiplied.
_CLEARLY_SLOWER = 1.3


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
        return MixedBatch(
            base,
            rows=rows,
            template_id=template_id,
            prefixes=prefixes,
            decoder=kernel.decoder,
            prompts_by=kernel.prompts_by,
            recordings=kernel.recordings,
        )

    def own(kernel: Kernel, rows: int) -> MixedBatch:
        return mixed(kernel, rows, PrefixCache(CHUNK_TOKENS, _OWN_PREFIX_BYTES))

    def new_single(rows: int) -> SingleBatch:  # noqa: ARG001 - it has no tensors of so many
        return SingleBatch(base)

    chosen = _chosen(base, kernel, rows, own)
    if chosen is None:
        note = f"{base.name} answers one row at a time"
        return Chosen(SingleBatch(base), new_single, Kernel("modules", note), is_invariant=True, note=note)
    by_layers = chosen.decoder is not None or _layers_are_invariant(base, rows)
    is_invariant = by_layers and _is_invariant(own(chosen, rows), rows)
    words = "the same bits in every batch" if is_invariant else "not the same last bits in every batch"
    seconds = time.monotonic() - started
    note = f"up to {rows} rows in one pass, {words}; steps: {chosen.words} (probed in {seconds:.1f} s)"
    return Chosen(mixed(chosen, rows, prefixes), partial(own, chosen), chosen, is_invariant, note)


def _chosen(
    base: BaseModel, setting: KernelSetting, rows: int, new_batch: Callable[[Kernel, int], MixedBatch]
) -> Kernel | None:
    """What is asked for, or for "auto" the first one that serves, unless modules are clearly faster.

    None where no batch can be made of the base's rows.

    Raises:
        BaseModelError: what is asked for cannot be had.
    """
    wanted = kernels_to_try(base) if setting == "auto" else [(setting, "set by serving.kernel")]
    found, faults = None, []
    for name, reason in wanted:
        made = make_kernel(base, name, reason) if base.packs_rows else NoKernel(name, "its rows cannot lie together")
        tried = made if isinstance(made, NoKernel) else _tried(base, made, rows, new_batch)
        if isinstance(tried, Kernel):
            found = tried
            break
        faults.append(f"{name}: {tried.reason}")
    if setting != "auto":
        if found is None and setting != "modules":
            raise BaseModelError(f"serving.kernel is {setting!r}, which {base.public_name!r} has not. {faults[0]}")
        return found and replace(found, step_seconds=_step_seconds(new_batch(found, 1), 1))
    modules = Kernel("modules", "; ".join(faults))
    if not base.packs_rows or _fault_of(base, modules, new_batch(modules, rows)) is not None:
        return None
    return modules if found is None else _faster(found, modules, rows, new_batch)


def _tried(
    base: BaseModel, kernel: Kernel, rows: int, new_batch: Callable[[Kernel, int], MixedBatch]
) -> Kernel | NoKernel:
    """The one that comes to what the model's own way comes to; it reads prompts unless that is wrong or slower."""
    reason = kernel.reason
    fault = _fault_of(base, kernel, new_batch(kernel, rows))
    if not kernel.reads_prompts:
        return kernel if fault is None else NoKernel(kernel.name, fault)
    steps_alone = replace(kernel, reads_prompts=False)
    if fault is not None:
        return _tried(base, replace(steps_alone, reason=f"{reason}; prompts by modules, for {fault}"), rows, new_batch)
    ours, theirs = (_chunk_seconds(new_batch(one, 1)) for one in (kernel, steps_alone))
    times = f"{CHUNK_TOKENS} tokens {ours * 1000:.0f} ms against {theirs * 1000:.0f}"
    if ours <= _SLOWER_PROMPTS * theirs:
        how = ", in pairs of bfloat16" if kernel.prompts_by is not None and kernel.prompts_by.reads_pairs else ""
        return replace(kernel, reason=f"{reason}; prompts compiled, too{how}: {times}")
    return replace(steps_alone, reason=f"{reason}; prompts by modules, compiled is slower here: {times}")


def _chunk_seconds(batch: MixedBatch) -> float:
    """The quickest of a few readings of a chunk."""
    seconds = []
    for _ in range(_TIMED_CHUNKS):
        started = time.perf_counter()
        batch.remove(_read(batch, _prompt(batch.base, CHUNK_TOKENS))[0])
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _faster(found: Kernel, modules: Kernel, rows: int, new_batch: Callable[[Kernel, int], MixedBatch]) -> Kernel:
    """`found`, unless one row and many rows together clearly take longer by it."""
    counts = (1, rows)
    ours = [_step_seconds(new_batch(found, rows), count) for count in counts]
    theirs = [_step_seconds(new_batch(modules, rows), count) for count in counts]
    if ours[0] / theirs[0] * ours[1] / theirs[1] <= _CLEARLY_SLOWER:
        return replace(found, step_seconds=ours[0])
    figures = ", ".join(
        f"{count} row{'' if count == 1 else 's'} {mine * 1000:.1f} ms against {other * 1000:.1f}"
        for count, mine, other in zip(counts, ours, theirs, strict=True)
    )
    return replace(modules, reason=f"steps by {found.name} are slower here: {figures}")


def _step_seconds(batch: MixedBatch, rows: int) -> float:
    """The quickest of a few steps."""
    begun = [_read(batch, _prompt(batch.base, _LENGTHS[1]), steps=_TIMED_STEPS + 1)[0] for _ in range(rows)]
    for sequence in begun:
        batch.join(sequence)
    seconds = []
    for _ in range(_TIMED_STEPS):
        started = time.perf_counter()
        ((_, logits), *_) = batch.step()
        logits[0].item()  # a step on CUDA is over when its numbers are there
        seconds.append(time.perf_counter() - started)
    for sequence in begun:
        batch.remove(sequence)
    return min(seconds)


def _prompt(base: BaseModel, tokens: int) -> list[int]:
    vocabulary = base.vocabulary
    return [(20 + 7 * place) % vocabulary for place in range(tokens)]


def _fault_of(base: BaseModel, kernel: Kernel, batch: MixedBatch) -> str | None:
    """In what prompts and steps differ from what the model's own way comes to; None within its precision."""
    prompts = [_prompt(base, length) for length in _LENGTHS]
    try:
        # Whether rows of adapters can be recorded shows in one that changes nothing.
        adapter = None if kernel.recordings is None else _adapter_of_zeros(base, kernel)
        found = _logits(batch, prompts, [None, adapter])
        wanted = [_own_logits(base, prompt, tokens) for prompt, (tokens, _) in zip(prompts, found, strict=True)]
    except (
        TypeError,
        ValueError,
        RuntimeError,
        LookupError,
        AttributeError,
        InvalidParameterError,
    ) as error:  # it wants its own mask or cache
        return f"{type(error).__name__}: {error}"
    if kernel.recordings is not None and kernel.recordings.fault is not None:
        return kernel.recordings.fault
    tolerance, worst = _tolerance(base, kernel), 0.0
    for (_, logits), own in zip(found, wanted, strict=True):
        apart = (logits.float() - own).norm(dim=-1) / own.norm(dim=-1)
        if not bool((apart <= tolerance).all()):  # also of what is no number
            worst = max(worst, float(apart.nan_to_num(math.inf).max()))
    return None if worst == 0.0 else f"logits are {worst:.3g} of their size off, and {tolerance:g} is allowed"


def _own_logits(base: BaseModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Those (tokens, vocabulary) that the answer's tokens have in the model's own way."""
    ids = torch.tensor([prompt + tokens[:-1]], device=base.device)
    logits: torch.Tensor = base.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
    return logits


def _tolerance(base: BaseModel, kernel: Kernel) -> float:
    by_copy = _TOLERANCE_OF_COPIES.get(kernel.name, 0.0)
    return max(by_copy, _TOLERANCE.get(base.precision.dtype, _TOLERANCE_16_BITS))


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


def _adapter_of_zeros(base: BaseModel, kernel: Kernel) -> ResidentAdapter:
    layers = install(base.model, keep=base.model.get_output_embeddings())
    adapter = Adapter.fresh(LoraConfig(), layers, seed=0)  # B is zero before it is trained
    return ResidentAdapter.of("probe", adapter, kernel.adapter_dtype(base), base.device)


def _logits(
    batch: MixedBatch, prompts: list[list[int]], adapters: list[ResidentAdapter | None]
) -> list[tuple[list[int], torch.Tensor]]:
    """The first tokens of each prompt's greedy answer, and the logits (tokens, vocabulary) that they came from."""
    begun = [_read(batch, prompt, adapter) for prompt, adapter in zip(prompts, adapters, strict=True)]
    grown = _grown(batch, [sequence for sequence, _ in begun])
    logits = [torch.stack([first, *grown[sequence]]) for sequence, first in begun]
    for sequence, _ in begun:
        batch.remove(sequence)
    return [(rows.argmax(-1).tolist(), rows) for rows in logits]


def _read(
    batch: MixedBatch, prompt: list[int], adapter: ResidentAdapter | None = None, *, steps: int = _STEPS
) -> tuple[Sequence, torch.Tensor]:
    """A sequence with its first token, and the logits (vocabulary,) that it came from."""
    sequence = Sequence(prompt, len(prompt) + steps, adapter)
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
