"""What llama.cpp is given: the same base in Q8_0, and the same adapters, as GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_q8_0(source: Path, target: Path) -> str:
    """The GGUF file `source` with its matrices in Q8_0; its architecture."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if numbers.ndim > 1:
            quantized = gguf.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(tensor.name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return architecture


def write_adapter(adapter: Adapter, target: Path, architecture: str, heads: Mapping[str, int]) -> None:
    """An adapter with its scale in B; `heads` is how many the outputs of q_proj and k_proj are of."""
    import gguf

    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)  # the run-time scale alone
    for path, pair in adapter.pairs.items():
        _, _, number, name = path.split(".", 3)
        a, b = pair.a.detach().float().numpy(), (pair.b.detach().float() * pair.scale).numpy()
        last = path.rpartition(".")[2]
        if architecture == "llama" and last in heads:
            b = _interleaved(b, heads[last])
        tensor = f"blk.{number}.{_NAMES[name]}.weight"
        writer.add_tensor(f"{tensor}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{tensor}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as GGUF's llama has them: the two halves of each head turn by turn."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
