"""What a step reads: of the base and of each row, as numbers and as tables of addresses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Linear layers of a decoder layer, in the order in which tables have them.
QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)
LINEARS = 7
# Norms of a decoder layer; only the two `BEFORE` are in every family.
BEFORE_ATTENTION, OF_QUERY, OF_KEY, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP = range(6)
NORMS = 6

Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Base(NamedTuple):
    """A base: sizes, and tables of addresses (0: there is none). A matrix is (address, kind, of scales, of a bias)."""

    hidden: int
    heads: int
    groups: int
    """Heads of keys and values; as many of the queries' share each."""
    head_size: int
    between: int
    """Numbers between gate and down."""
    vocabulary: int
    activation: int
    cache_kind: int
    adapter_kind: int
    of_prompt: int
    """1 where rows are tokens of one prompt, in one cache; else 0."""
    in_pairs: int
    """1 where what goes into products is rounded to bfloat16, as BFLOAT16_PAIRS want it; else 0. Of prompts alone."""
    epsilon: np.float32
    embedding_factor: np.float32
    score_scale: np.float32
    embedding: Integers
    """(4,), a matrix of tokens × hidden"""
    shapes: Integers
    """(LINEARS, 2), how many outputs and how many inputs each linear layer has"""
    linears: Integers
    """(layers, LINEARS, 4)"""
    norms: Integers
    """(layers, NORMS)"""
    windows: Integers
    """(layers,), how many of the last tokens one sees; 0 for all"""
    rotations: Integers
    """(layers, 2), addresses of cosines and sines (positions, half a head)"""
    final_norm: int
    head: Integers
    """(4,), a matrix of vocabulary × hidden"""


class Rows(NamedTuple):
    """What each row brings."""

    tokens: Integers
    positions: Integers
    caches: Integers
    """(rows, layers, 2), addresses of keys and values (groups, capacity, numbers in a head)"""
    strides: Integers
    """(rows,), bytes from one group of the cache to the next"""
    adapters: Integers
    """(rows, layers, LINEARS, 3): addresses of A and B, and rank, which is 0 where a layer is not changed"""
    strengths: Floats
    """(rows,)"""
    wanted: int
    """Logits of so many rows, the last ones, are made."""


# Places in a table of addresses of memory for what a pass makes; (rows, …) each, of float32. `ROUNDED` are inputs of
# products where those are rounded: what is as wide as a state, and what lies between two products.
HIDDEN, NORMED, QUERIES, KEYS, VALUES, ATTENDED, GATES, UPS, ROUNDED, ROUNDED_BETWEEN, INNER, LOGITS = range(12)
# Values turned the other way, of all groups; scores, which each thread has of its own. The last are no addresses: how
# many bytes those of a thread are, and those of a row of `INNER`.
TURNED, SCORES, SCORES_STRIDE, INNER_STRIDE = range(12, 16)
