"""Beginnings of prompts that were computed before: keys and values of whole chunks, kept while there is room.

What a chunk's keys and values are follows from the version of the adapter and its strength, the base, and all tokens
up to the chunk's end; that is the key, and no name is in it. vLLM keys by an adapter's name and so answers with an
older version's states after a reload (vllm#42125); llama.cpp's host cache keys by tokens alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapter_service.engine.kv_cache import Block

# Tokens of a prompt that go through the base at once; everyone else's next token waits for that. Chunks begin at
# multiples of it, so that a prompt is computed alike whatever of it is found here.
CHUNK_TOKENS = 64

# Whose states they are: the base with its template, the adapter's version (None: the base alone) and its strength.
Owner = tuple[str, str | None, float]
_Key = tuple[Owner, tuple[int, ...]]


class PrefixCache:
    """Blocks of `chunk_tokens` tokens, at most `max_bytes` of them; the least recently used go first."""

    def __init__(self, chunk_tokens: int, max_bytes: int) -> None:
        self.chunk_tokens = chunk_tokens
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.queried_tokens = 0
        self.found_tokens = 0
        self._blocks: OrderedDict[_Key, Block] = OrderedDict()

    def find(self, owner: Owner, prompt: Sequence[int]) -> list[Block]:
        """The blocks of the longest beginning of `prompt` that is here; never all of it: its last token is wanted."""
        keys: list[_Key] = []
        for end in self._ends(len(prompt) - 1):
            key = (owner, tuple(prompt[:end]))
            if key not in self._blocks:
                break
            keys.append(key)
        for key in reversed(keys):  # the first goes last: without it none behind it is found
            self._blocks.move_to_end(key)
        self.queried_tokens += len(prompt)
        self.found_tokens += len(keys) * self.chunk_tokens
        return [self._blocks[key] for key in keys]

    def keep(self, owner: Owner, prompt: Sequence[int], block: Block) -> None:
        """Keep a copy of `block`, the last chunk of `prompt`, whose length is a number of whole chunks."""
        key = (owner, tuple(prompt))
        size = _bytes(block)
        if key in self._blocks or size > self.max_bytes:
            return
        while self.size_bytes + size > self.max_bytes:
            _, oldest = self._blocks.popitem(last=False)
            self.size_bytes -= _bytes(oldest)
        self._blocks[key] = [(keys.clone(), values.clone()) for keys, values in block]
        self.size_bytes += size

    def forget(self) -> None:
        """Free all memory."""
        self._blocks.clear()
        self.size_bytes = 0

    def _ends(self, tokens: int) -> Iterator[int]:
        return iter(range(self.chunk_tokens, tokens + 1, self.chunk_tokens))


def _bytes(block: Block) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in block)
