"""How a machine says that it has no memory left."""

from __future__ import annotations

import torch

_WORDS = ("can't allocate memory", "ALLOC_FAILED", "CUDA error: out of memory")


def says_no_memory(error: BaseException) -> bool:
    """CUDA has a class for it; a processor's allocator and the matrix libraries have words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _WORDS)
