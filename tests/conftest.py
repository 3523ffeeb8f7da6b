"""Shared by all tests: the small real base, imported once and kept between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import adapter_service  # noqa: F401 - sets how torch's threads wait, which counts only before torch is imported

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# Compiled anew in each run: what was kept calls its parts by numbers that count from a process's beginning, and tests
# that call parts themselves give those numbers to others.
_compiled = tempfile.TemporaryDirectory(prefix="compiled-")
os.environ["NUMBA_CACHE_DIR"] = _compiled.name

ROOT = Path(__file__).resolve().parents[1]
SMALL_BASE = "package:smollm2-135m"


@pytest.fixture(scope="session")
def bases_dir() -> Path:
    """Where imported bases are kept; importing one takes most of a minute."""
    return Path(os.environ.get("ADAPTER_TEST_BASES", ROOT / ".state" / "test-bases"))


@pytest.fixture(scope="session")
def small_base(bases_dir: Path) -> BaseModel:
    """SmolLM2-135M-Instruct in float32, so that equal computations give equal numbers."""
    from adapter_service.model_utils import load_base

    return load_base(SMALL_BASE, bases_dir=bases_dir, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `write_tiny_base`."""
    folder = tmp_path_factory.mktemp("tiny-base")
    write_tiny_base(folder)
    return folder


def write_tiny_base(folder: Path) -> None:
    """A random two-layer Llama over bytes, as transformers writes it; nothing it says means anything."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,  # wide enough for the greedy token to differ from place to place
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_base(tiny_base_folder: Path) -> BaseModel:
    """The random base in float32; load `tiny_base_folder` anew where a test changes the model."""
    from adapter_service.model_utils import load_base

    return load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32")


def byte_tokenizer() -> Any:
    """One token for each byte, so that every code point beyond ASCII crosses tokens; `</s>` also pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>"]
    vocabulary = {token: place for place, token in enumerate(special)}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    begin, end = special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=end)
