"""Load a base model: from a package, a GGUF file, a folder or the Hub, in the precision that suits the machine.

The base is frozen and in memory once; adapters are put beside it by `adapter_service.lora`.
A base that lies on this machine is loaded without a single network call.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from adapter_service.base_models import attention, norms
from adapter_service.base_models.importing import import_gguf
from adapter_service.base_models.int8 import quantize_linears
from adapter_service.base_models.locating import BaseLocation, locate, public_name
from adapter_service.base_models.own_tokenizer import check_fits, load_tokenizer, locate_tokenizer, tokenizer_digest
from adapter_service.base_models.precision import Precision, choose_precision
from adapter_service.base_models.quiet import quiet_transformers
from adapter_service.base_models.token_scripts import TokenScripts
from adapter_service.errors import BaseModelError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A frozen causal language model, its tokenizer, and what is known of both.

    `name` is the configured one, which may be a path; answers have `public_name`. `identity` changes when the weights
    or the tokenizer do; it is part of every adapter version's key.
    """

    name: str
    identity: str
    model: Any
    tokenizer: Any
    precision: Precision
    context_tokens: int
    packs_rows: bool
    """Whether rows can go through it packed end to end, with what they begin with computed once."""
    load_seconds: float
    token_scripts: TokenScripts

    @property
    def public_name(self) -> str:
        return public_name(self.name)

    @property
    def device(self) -> torch.device:
        return torch.device(self.precision.device)

    @property
    def adapter_dtype(self) -> torch.dtype:
        """The type that adapters are in for modules to read: on a CPU float32, whose small products take a third.

        One row through 640 → 16 → 2048: 18 µs in float32, 53 in bfloat16 (one thread).
        """
        return torch.float32 if self.precision.device == "cpu" else self.precision.dtype

    @property
    def vocabulary(self) -> int:
        """How many token ids it can read: the rows of its input embedding. A tokenizer may have fewer or more."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def weight_bytes(self) -> int:
        tensors = {t.data_ptr(): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def foreign_to(self, script: str) -> torch.Tensor:
        """1 for every token with a letter that is not of `script`, else 0: (vocabulary of the head,), float32."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        return self.token_scripts.foreign(script, vocabulary, self.device)

    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer: the tokenizer's and those of the generation config."""
        found = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        found |= set(configured) if isinstance(configured, list) else {configured}
        return frozenset(token for token in found if token is not None)


@dataclass(frozen=True, slots=True)
class BaseOutline:
    """A base without its weights: what is needed to tell whether an adapter is for it.

    `model` has layers with their shapes, and memory for none of them.
    """

    name: str
    identity: str
    model: Any


def load_base(
    name: str,
    *,
    bases_dir: Path,
    revision: str | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    use_8bit: bool = False,
    use_4bit: bool = False,
    threads: int = 0,
    note: Callable[[str], None] = log.info,
) -> BaseModel:
    """Load the base that `name` names (see `base_models.locating`) and freeze it.

    `tokenizer` is a path (see `base_models.own_tokenizer`), None for the base's own. `threads` = 0 takes
    as many as multiply fastest. `note` is told each step in words for people.

    Raises:
        BaseModelError: it cannot be found, read, or held in the wanted precision; the tokenizer does not fit it.
    """
    started = time.monotonic()
    location = locate(name, revision)
    own = locate_tokenizer(tokenizer) if tokenizer is not None else None
    precision = choose_precision(device=device, dtype=dtype, use_8bit=use_8bit, use_4bit=use_4bit, threads=threads)
    torch.set_num_threads(precision.threads)
    folder = import_gguf(location.parts, bases_dir, note) if location.parts else location.folder
    note(f"loading {name} ({precision.quantization}, {precision.reason})")
    with quiet_transformers():
        encoder = _tokenizer(location, folder) if own is None else load_tokenizer(own)
        model = _model(location, folder, precision)
    if own is not None:
        check_fits(encoder, own, name, model.get_input_embeddings().weight.shape[0])
        # The base's own end token is another word in this vocabulary.
        model.generation_config.eos_token_id = encoder.eos_token_id
    if precision.quantization in {"int8", "bnb-int8"} and not quantize_linears(
        model, keep=model.get_output_embeddings()
    ):
        raise BaseModelError(f"{name!r} has no linear layers to hold in 8 bits; leave out use_8bit")
    model.requires_grad_(requires_grad=False)
    model.eval()
    # The last position of a batch is a slice, and a product with a slice copies the head for every row
    # of it: 33 GB for 100 rows of a 262,144-token vocabulary, 1.1 s for one.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (_compact(args[0]), *args[1:]))
    attention.install(model)
    norms.install(model)
    if not (packs_rows := attention.can_pack(model)):
        note(f"{name} takes no samples end to end: they are padded to one length, and shared beginnings made again")
    return BaseModel(
        name=name,
        identity=_identity(location, folder, model.config, own),
        model=model,
        tokenizer=encoder,
        precision=precision,
        context_tokens=int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048),
        packs_rows=packs_rows,
        load_seconds=time.monotonic() - started,
        token_scripts=TokenScripts(encoder),
    )


def outline_base(
    name: str,
    *,
    bases_dir: Path,
    revision: str | None = None,
    tokenizer: str | None = None,
    note: Callable[[str], None] = log.info,
) -> BaseOutline:
    """The base that `load_base` would load, in the time and memory of reading its files once.

    Raises:
        BaseModelError: it cannot be found or read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    location = locate(name, revision)
    own = locate_tokenizer(tokenizer) if tokenizer is not None else None
    folder = import_gguf(location.parts, bases_dir, note) if location.parts else location.folder
    source, where = _source(location, folder)
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(source, **where)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(f"base model {name!r} cannot be looked at: {error}") from error
    return BaseOutline(name, _identity(location, folder, config, own), model)


def _compact(x: torch.Tensor) -> torch.Tensor:
    """`x` with strides of its own; `contiguous()` would leave those of a slice with one row alone."""
    return x.clone(memory_format=torch.contiguous_format)


def _source(location: BaseLocation, folder: Path | None) -> tuple[Path | str, dict[str, Any]]:
    """What transformers is asked for, and how."""
    if folder is None:
        return location.name, {"trust_remote_code": False, "revision": location.revision}
    _refuse_remote_code(folder)
    return folder, {"trust_remote_code": False, "local_files_only": True}


def _tokenizer(location: BaseLocation, folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    source, where = _source(location, folder)
    try:
        return AutoTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(f"the tokenizer of base model {location.name!r} cannot be loaded: {error}") from error


def _model(location: BaseLocation, folder: Path | None, precision: Precision) -> Any:
    from transformers import AutoModelForCausalLM

    source, where = _source(location, folder)
    try:
        # Safetensors alone: other weight files are pickles, which can run code.
        where |= {"dtype": precision.dtype, "use_safetensors": True, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(source, **where, **_bitsandbytes(precision))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(f"base model {location.name!r} cannot be loaded: {error}") from error
    if missing := sorted(found["missing_keys"]):  # transformers fills these with random numbers
        raise BaseModelError(
            f"base model {location.name!r} lacks {len(missing)} weights, {missing[0]} among them; fetch it anew"
        )
    return model if precision.quantization.startswith("bnb") else model.to(precision.device)


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
    return {"quantization_config": config, "device_map": precision.device}


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


def _identity(location: BaseLocation, folder: Path | None, config: Any, own_tokenizer: Path | None) -> str:
    weights = _weights_identity(folder) if folder else str(config._commit_hash or location.revision)
    if own_tokenizer is None:
        return weights
    return hashlib.sha256(f"{weights} {tokenizer_digest(own_tokenizer)}".encode()).hexdigest()


def _weights_identity(folder: Path) -> str:
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
