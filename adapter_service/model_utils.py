"""Load a base model: from a package, a GGUF file, a folder or the Hub, in the precision that suits the machine.

The base is frozen and in memory once; adapters are put beside it by `adapter_service.lora`.
A base that lies on this machine is loaded without a single network call.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from adapter_service.base_models.importing import import_gguf
from adapter_service.base_models.int8 import quantize_linears
from adapter_service.base_models.locating import BaseLocation, locate
from adapter_service.base_models.precision import Precision, choose_precision
from adapter_service.base_models.quiet import quiet_transformers
from adapter_service.errors import BaseModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model, its tokenizer, and what is known of both.

    `identity` changes when the weights do; it is part of every adapter version's key.
    """

    name: str
    identity: str
    model: Any
    tokenizer: Any
    precision: Precision
    context_tokens: int
    load_seconds: float

    @property
    def device(self) -> torch.device:
        return torch.device(self.precision.device)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """The type that serving adapters are held in: on a CPU float32, whose small products take a third of the time.

        One row through 640 → 16 → 2048: 18 µs in float32, 53 in bfloat16 (one thread).
        """
        return torch.float32 if self.precision.device == "cpu" else self.precision.dtype

    @property
    def weight_bytes(self) -> int:
        tensors = {t.data_ptr(): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer: the tokenizer's and those of the generation config."""
        found = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        found |= set(configured) if isinstance(configured, list) else {configured}
        return frozenset(token for token in found if token is not None)


def load_base(
    name: str,
    *,
    bases_dir: Path,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    use_8bit: bool = False,
    use_4bit: bool = False,
    threads: int = 0,
    note: Callable[[str], None] = log.info,
) -> BaseModel:
    """Load the base that `name` names (see `base_models.locating`) and freeze it.

    `threads` = 0 takes every core. `note` is told each step in words for people.

    Raises:
        BaseModelError: it cannot be found, read, or held in the wanted precision.
    """
    started = time.monotonic()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    location = locate(name, revision)
    precision = choose_precision(device=device, dtype=dtype, use_8bit=use_8bit, use_4bit=use_4bit)
    folder = import_gguf(location.parts, bases_dir, note) if location.parts else location.folder
    note(f"loading {name} ({precision.quantization}, {precision.reason})")
    with quiet_transformers():
        model, tokenizer = _from_transformers(location, folder, precision)
    if precision.quantization == "int8" and not quantize_linears(model, keep=model.get_output_embeddings()):
        raise BaseModelError(f"{name!r} has no linear layers to hold in 8 bits; leave out use_8bit")
    model.requires_grad_(requires_grad=False)
    model.eval()
    # The last position of a batch is a slice, and a product with a slice copies the head for every row
    # of it: 33 GB for 100 rows of a 262,144-token vocabulary, 1.1 s for one.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (_compact(args[0]), *args[1:]))
    return BaseModel(
        name=name,
        identity=_identity(folder) if folder else str(model.config._commit_hash or location.revision),
        model=model,
        tokenizer=tokenizer,
        precision=precision,
        context_tokens=int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048),
        load_seconds=time.monotonic() - started,
    )


def _compact(x: torch.Tensor) -> torch.Tensor:
    """`x` with strides of its own; `contiguous()` would leave those of a slice with one row alone."""
    return x.clone(memory_format=torch.contiguous_format)


def _from_transformers(location: BaseLocation, folder: Path | None, precision: Precision) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"trust_remote_code": False}
    if folder is not None:
        _refuse_remote_code(folder)
        where["local_files_only"] = True
    else:
        where["revision"] = location.revision
    source = folder or location.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        # Safetensors alone: other weight files are pickles, which can run code.
        where |= {"dtype": precision.dtype, "use_safetensors": True, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(source, **where, **_bitsandbytes(precision))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(f"base model {location.name!r} cannot be loaded: {error}") from error
    if missing := sorted(found["missing_keys"]):  # transformers fills these with random numbers
        raise BaseModelError(
            f"base model {location.name!r} lacks {len(missing)} weights, {missing[0]} among them; fetch it anew"
        )
    return model if precision.quantization.startswith("bnb") else model.to(precision.device), tokenizer


def _bitsandbytes(precision: Precision) -> dict[str, Any]:
    if not precision.quantization.startswith("bnb"):
        return {}
    from transformers import BitsAndBytesConfig

    eight = precision.quantization == "bnb-int8"
    config = BitsAndBytesConfig(
        load_in_8bit=eight,
        load_in_4bit=not eight,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.dtype,
    )
    return {"quantization_config": config, "device_map": {"": 0}}


def _refuse_remote_code(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BaseModelError(f"config.json of {folder.name!r} cannot be read: {error}; fetch the base anew") from error
    if "auto_map" in config:
        raise BaseModelError(
            f"the config of {folder.name!r} asks for code of its own (auto_map), which is never run here; "
            "use a base that transformers knows"
        )


def _identity(folder: Path) -> str:
    """A hash that changes with the weights: an import's recorded digest, else one of config and weights.

    All of them are read: models trained further from one base have equal headers and mostly equal ends.
    """
    recorded = folder / "base.json"
    if recorded.is_file():
        return str(json.loads(recorded.read_text())["sha256"])
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
