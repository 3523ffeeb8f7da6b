"""What llama.cpp is given: the same base in other numbers, as GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_gguf(source: Path, target: Path, kind: str = "Q8_0") -> None:
    """The GGUF file `source` with its matrices in `kind`, a quantization of GGUF's, or F32."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
            continue
        value_kind = field.types[0]
        writer.add_key_value(
            field.name, field.contents(), value_kind, field.types[-1] if len(field.types) > 1 else None
        )
    whole = kind == "F32"
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if whole else f"MOSTLY_{kind}"])
    quantization = gguf.GGMLQuantizationType[kind]
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if numbers.ndim > 1 and not whole:
            quantized: Any = gguf.quantize(numbers, quantization)
            writer.add_tensor(tensor.name, quantized, raw_dtype=quantization)
        else:
            writer.add_tensor(tensor.name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
