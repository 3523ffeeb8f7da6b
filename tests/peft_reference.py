"""PEFT as the reference: adapters that it writes, and what they come to in it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch


def written_by_peft(model: Any, folder: Path, *, seed: int = 3, std: float = 0.2, **options: Any) -> Any:
    """PEFT's model around `model`, which it changes, with a random B that is in `folder` too."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=std)
    peft_model.save_pretrained(folder)
    return peft_model


def copy_of(model: Any) -> Any:
    """For PEFT to change."""
    return copy.deepcopy(model)


@torch.inference_mode()
def greedy_by_generate(model: Any, prompt: list[int], tokens: int) -> tuple[list[int], torch.Tensor]:
    """The tokens of transformers' greedy answer, and the logits (tokens, vocabulary) that they came from."""
    ids = torch.tensor([prompt])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found.sequences[0, len(prompt) :].tolist(), torch.cat(found.logits)
