"""What each kernel changes: token after token of real text, beside the same base in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from adapter_service.engine.batch import read_whole
from adapter_service.engine.sequence import Sequence
from adapter_service.measuring.provenance import Result
from adapter_service.settings import KernelSetting
from benchmarks.kernels_ours import Ours

_KERNELS: tuple[KernelSetting, ...] = ("auto", "int8", "modules")
_FIRST = 8


def measure(ours: Ours, tokens: int) -> Iterator[Result]:
    text = [token for prompt in ours.prompts for token in prompt][: tokens + _FIRST]
    wanted = _whole_in_float32(ours, text)
    for setting in _KERNELS:
        found = _step_by_step(ours, setting, text).log_softmax(-1)
        following = torch.tensor(text[_FIRST + 1 :])
        loss, exact = (-float(logs[:-1].gather(-1, following[:, None]).mean()) for logs in (found, wanted))
        apart = float((wanted.exp() * (wanted - found)).sum(-1).mean())
        same = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
        name = f"{setting}, {ours.weights(setting)} weights" if setting != "modules" else setting
        yield Result(f"loss by {name}", loss, "nats/token", "the base in float32", exact, loss / exact)
        yield Result(f"KL from the base in float32 to {name}", apart, f"nats/token, {len(wanted)} tokens")
        yield Result(f"the same best token as in float32 by {name}", same, "of 1")


@torch.inference_mode()
def _step_by_step(ours: Ours, setting: KernelSetting, text: list[int]) -> torch.Tensor:
    """Logits (tokens, vocabulary) of what follows each token from the `_FIRST`-th on."""
    batch, sequence = ours.batch(setting), Sequence(text[:_FIRST], len(text) + 1)
    logits = []
    read_whole(batch, sequence)
    batch.join(sequence)
    for token in text[_FIRST:]:
        sequence.next_token = token
        ((_, row),) = batch.step()
        logits.append(row.float())
    batch.remove(sequence)
    return torch.stack(logits)


@torch.inference_mode()
def _whole_in_float32(ours: Ours, text: list[int]) -> torch.Tensor:
    """Log-probabilities (tokens, vocabulary), by a copy of the base."""
    import copy

    model = copy.deepcopy(ours.base.model).float()
    logits: torch.Tensor = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, _FIRST:]
    return logits.log_softmax(-1)
