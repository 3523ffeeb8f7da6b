"""How much memory training takes beside the base, before it is tried: an estimate, and what is free.

    tokens × item size × (0.95 × inputs and outputs of the linear      what the backward pass needs,
        layers + 1.5 × hidden × norms)
    tokens × longest row × heads × decoder layers × item size          and of it what attention keeps
    3 × one layer's share of both + tokens × hidden × layers           instead, with preset small
        × item size + tokens × outputs no wider than their input       (where that is less)
        × item size
    tokens × (item size + 1) × inputs of the layers that train         where inputs are dropped
    16 × adapter weights                                               float32, gradient, AdamW's two moments
    256 × 4,096 × (2 × item size + 12)                                 the loss, a block of logits at a time;
                                                                       on CUDA × 32,768
    copied rows of the head × hidden × item size                       where the loss is sampled
    item size × weights of the largest linear layer                    its wide copy, if it is quantized
    215 MiB, on a CPU                                                  what the matrix library and the
                                                                       allocator keep

The factors are fitted to the growth of resident memory at rank 16 in bfloat16 on a CPU, in steps of eight rows
of 24 to 512 tokens (torch 2.13; MiB). The last part is because of these: rows of one length took 150 to 300 less.

    shape           layers    preset    tokens    measured    estimated
    SmolLM2-135M    30        fast         512     688, 701         775
    SmolLM2-135M    30        fast       1,024       1,343        1,243
    SmolLM2-135M    30        small        512     449, 434         431
    Gemma 3 270M    18        fast         512     655, 664         647
    Gemma 3 270M    18        small        512     435, 428         391
    Qwen3-0.6B       8        fast         512         579          556

What lies below the first layer that trains keeps nothing. It is not of the engine's adapters, nor of answers that
are given meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from adapter_service.base_models import attention, norms
from adapter_service.base_models.free_memory import free_bytes
from adapter_service.errors import DoesNotFitError, InvalidParameterError
from adapter_service.lora.adapter import LinearLayer, LoraConfig, select_layers
from adapter_service.lora.depth import reached_backward
from adapter_service.lora.layer import LowRankLinear
from adapter_service.model_utils import BaseModel
from adapter_service.settings import LossSettings, TrainingSettings
from adapter_service.training.batching import padded_length, sequences_per_step
from adapter_service.training.loss import Head, loss_bytes
from adapter_service.training.recomputing import decoder_layers
from adapter_service.training.vocabulary import columns_for

Preset = Literal["fast", "small"]

_LINEAR_FACTOR, _NORMS_FACTOR, _ONE_LAYER_FACTOR = 0.95, 1.5, 3.0
_BYTES_PER_WEIGHT = 16
_KEPT_BY_LIBRARIES = 215 << 20


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks memory for, beside the base: what is trained and how, on samples of up to `longest` tokens.

    `head_rows` of the output head are copied, where the loss is sampled.
    """

    base: BaseModel
    layers: Mapping[str, LowRankLinear]
    lora: LoraConfig
    settings: TrainingSettings
    longest: int
    head_rows: int = 0


def largest_micro_batch(settings: TrainingSettings, longest: int) -> int:
    """Padded tokens of the largest micro-batch, where no sample is longer than `longest` tokens."""
    padded = padded_length(longest)
    return max(padded, min(settings.token_budget, sequences_per_step(settings) * padded))


def copied_head_rows(base: BaseModel, loss: LossSettings, tokens: Callable[[], int]) -> int:
    """How many of the head's rows a sampled loss copies, where the samples have up to `tokens()` tokens."""
    if loss.vocabulary == "all":
        return 0
    whole = Head.of(base.model).weight.shape[0]
    columns = columns_for(min(whole, tokens()), whole, loss)
    return 0 if columns == whole else columns


def estimate_bytes(demand: Demand, tokens: int, *, preset: Preset) -> int:
    """What training takes beside the base, with micro-batches of up to `tokens` padded tokens."""
    base, layers, lora = demand.base, demand.layers, demand.lora
    item = base.precision.dtype.itemsize
    chosen = select_layers(lora, layers)
    every, reached = _widths(layers), _widths(reached_backward(chosen, layers))
    part = reached / every  # what lies below the first layer that trains keeps nothing
    config = base.model.config.get_text_config()
    of_norms = _NORMS_FACTOR * part * norms.count(base.model) * config.hidden_size
    activations = tokens * item * (_LINEAR_FACTOR * reached + of_norms)
    activations += part * _attention_bytes(base, tokens, padded_length(demand.longest))
    if lora.dropout:  # each layer then keeps an input of its own, and what was dropped of it
        activations += tokens * (item + 1) * sum(layer.in_features for layer in chosen.values())
    if preset == "small":
        depth = part * len(decoder_layers(base.model))
        outputs = sum(layer.out_features for layer in chosen.values() if layer.keeps_output)
        kept_of_all = tokens * item * (config.hidden_size * depth + outputs)
        activations = min(activations, _ONE_LAYER_FACTOR * activations / depth + kept_of_all)
    weights = sum(lora.rank(path) * (layer.in_features + layer.out_features) for path, layer in chosen.items())
    vocabulary, hidden = Head.of(base.model).weight.shape
    head = loss_bytes(vocabulary, item, base.device) + demand.head_rows * hidden * item
    wide = 0
    if base.precision.quantization != "none":
        wide = item * max(layer.in_features * layer.out_features for layer in layers.values())
    kept = _KEPT_BY_LIBRARIES if base.device.type == "cpu" else 0
    return int(activations + _BYTES_PER_WEIGHT * weights + head + wide + kept)


def _widths(layers: Mapping[str, LinearLayer]) -> int:
    return sum(layer.in_features + layer.out_features for layer in layers.values())


def _attention_bytes(base: BaseModel, tokens: int, longest: int) -> int:
    """Of how much each token attends to each of its row: kept where the rows are short, and not by torch's kernel."""
    config = base.model.config.get_text_config()
    if config._attn_implementation != attention.NAME or base.device.type != "cpu":
        return 0
    # Longer ones go through torch's, which keeps nothing; those beside them do not.
    row = min(longest, attention.LONGEST)
    return int(config.num_hidden_layers * config.num_attention_heads * tokens * row * base.precision.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Fit:
    """A preset, never "auto", and what a run with it takes at most, of what is `free_bytes`."""

    preset: Preset
    tokens: int
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.free_bytes

    @property
    def note(self) -> str:
        return (
            f"{_megabytes(self.free_bytes)} MB are free: training with preset {self.preset!r} and up to {self.tokens} "
            f"tokens at a time, which takes about {_megabytes(self.needed_bytes)} MB beside the base"
        )


def fit(demand: Demand) -> Fit:
    """The preset that the settings name; for "auto" the fast one where it fits, else the small one.

    Where the small one does not fit either, it is tried with ever smaller passes, down to one of the longest sample.

    Raises:
        InvalidParameterError: "small" is asked for, and the base has no layers that can be run again.
    """
    base, settings = demand.base, demand.settings
    can_recompute = bool(decoder_layers(base.model))
    if settings.preset == "small" and not can_recompute:
        raise InvalidParameterError(
            f"preset 'small' runs decoder layers twice, and {base.public_name!r} has none that transformers would; "
            "use 'fast' with a smaller token_budget",
            parameter="preset",
        )
    row, free = padded_length(demand.longest), free_bytes(base.device)
    tokens = largest_micro_batch(settings, demand.longest)

    def with_preset(preset: Preset, tokens: int) -> Fit:
        return Fit(preset, tokens, estimate_bytes(demand, tokens, preset=preset), free)

    first: Preset = "fast" if settings.preset == "auto" else settings.preset
    found = with_preset(first, tokens)
    if settings.preset != "fast" and can_recompute and not found.fits:
        found = with_preset("small", tokens)
        while not found.fits and found.tokens > row:
            found = with_preset("small", max(row, found.tokens // 2))
    return found


def check_fits(demand: Demand) -> Fit:
    """The preset to train with; a run that this machine has not the memory for is refused.

    Raises:
        DoesNotFitError: the estimate is more than what is free; with both, and what to lower.
        InvalidParameterError: as `fit`.
    """
    found, settings = fit(demand), demand.settings
    if found.fits:
        return found
    where = "on the GPU" if demand.base.device.type == "cuda" else "of memory"
    lengths = f"token_budget (now {settings.token_budget}) and max_seq_length (now {settings.max_seq_length})"
    lower = f"lower {lengths}, or lora_r"
    if found.preset == "fast" and decoder_layers(demand.base.model):
        lower = f"use preset 'small', or {lower}"
    raise DoesNotFitError(
        f"training would take about {_megabytes(found.needed_bytes)} MB {where} beside the base, and "
        f"{_megabytes(found.free_bytes)} MB are free. It is for micro-batches of {found.tokens} tokens at rank "
        f"{demand.lora.r}, preset {found.preset!r}: {lower}"
    )


def _megabytes(size: int) -> int:
    return round(size / (1 << 20))
