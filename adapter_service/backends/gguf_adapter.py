"""An adapter as llama.cpp reads it: a GGUF file of low-rank matrices, with the scale that PEFT would have in B.

llama.cpp knows alpha and rank alone, so neither rsLoRA nor `alpha_pattern`; with an alpha of 0 it multiplies by
nothing but what a request asks for (`llama-adapter.h`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_service.durable import sync
from adapter_service.errors import AdapterFormatError

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Weights

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# The architectures whose files have the two halves of each head of queries and keys turn by turn.
_TURN_BY_TURN = frozenset({"llama"})


def write_gguf_adapter(weights: Mapping[str, Weights], path: Path, architecture: str, config: Any) -> None:
    """Write the file, whole or not at all; `config` is the base's, from transformers.

    Raises:
        AdapterFormatError: a layer that the file has no name for.
    """
    import gguf

    work = path.with_suffix(".part")
    writer = gguf.GGUFWriter(work, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for layer, pair in weights.items():
        a, b = pair.a.detach().float().numpy(), (pair.b.detach().float() * pair.scale).numpy()
        last = layer.rpartition(".")[2]
        if architecture in _TURN_BY_TURN and last in heads:
            b = _interleaved(b, heads[last])
        name = _tensor_name(layer)
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sync(work)
    work.replace(path)


@cache
def architecture_of(gguf_file: Path) -> str:
    """What the base's GGUF file says of itself, such as `llama`.

    Raises:
        AdapterFormatError: it does not say.
    """
    import gguf

    field = gguf.GGUFReader(gguf_file).get_field("general.architecture")
    if field is None:
        raise AdapterFormatError(f"{gguf_file.name} does not say its architecture; it is no base")
    return str(field.contents())


def _tensor_name(layer: str) -> str:
    _, _, rest = layer.partition("layers.")
    number, _, name = rest.partition(".")
    if name not in _NAMES or not number.isdigit():
        raise AdapterFormatError(
            f"the adapter changes {layer!r}, which llama.cpp's adapter files have no name for here; "
            f"those that they have: {', '.join(_NAMES)}"
        )
    return f"blk.{number}.{_NAMES[name]}.weight"


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as GGUF's llama has them: the two halves of each head turn by turn."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
