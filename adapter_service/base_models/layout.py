"""How many rows lie in one sequence of tokens: what they begin with once, then what each has of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """So many rows, one after the other, of equally many tokens each."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows that begin with the same `prefix` tokens; with 0 they have nothing in common."""

    prefix: int
    blocks: tuple[Block, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of the prefix and of each block, as they lie in the sequence."""
        return [self.prefix, *(block.rows * block.tokens for block in self.blocks)]

    @property
    def longest_row(self) -> int:
        return self.prefix + max(block.tokens for block in self.blocks)


Layout = tuple[Segment, ...]
