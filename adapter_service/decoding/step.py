"""One step, compiled: a token for each row goes through all layers, and logits of what follows it come out.

    embedding
    for each layer      norm, queries keys values, [norm of heads], rotation, attention, output, [norm], add
                        norm, gate and up, activation, down, [norm], add
    norm, head

What a base does not have, its table has no address for. Every product of a row with a matrix is followed by that of
its adapter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import int64

from adapter_service.decoding.compiling import compiled, kept_compiled
from adapter_service.decoding.layers import activate, add, attend, embed, keep, norm, rotate
from adapter_service.decoding.products import add_low_rank, multiply
from adapter_service.decoding.tiles import FLOAT32

# Linear layers of a decoder layer, in the order in which tables have them.
QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN = range(7)
LINEARS = 7
# Norms of a decoder layer; only the two `BEFORE` are in every family.
BEFORE_ATTENTION, OF_QUERY, OF_KEY, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP = range(6)
NORMS = 6
_FLOAT = 4

Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Base(NamedTuple):
    """A base as tables of addresses (0: there is none). A matrix is (address, kind, address of scales, of a bias)."""

    sizes: Integers
    """hidden, heads, groups of heads that share keys, numbers in a head, numbers between gate and down, vocabulary,
    kind of activation, kind of the cache's numbers"""
    numbers: Floats
    """epsilon of the norms, embedding's factor, scale of scores"""
    embedding: Integers
    """(4,), a matrix of vocabulary × hidden"""
    linears: Integers
    """(layers, LINEARS, 4)"""
    norms: Integers
    """(layers, NORMS)"""
    windows: Integers
    """(layers,), how many of the last tokens one sees; 0 for all"""
    rotations: Integers
    """(layers, 2), addresses of cosines and sines (positions, half a head)"""
    end: Integers
    """(5,), the last norm, then the head's matrix"""


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


# Places in a table of addresses of float32 memory for what a step makes; (rows, …) each, but for `SCORES` and `INNER`,
# which one row after the other uses.
HIDDEN, NORMED, QUERIES, KEYS, VALUES, ATTENDED, GATES, UPS, SCORES, INNER, LOGITS = range(11)


@compiled
def _linear(
    base: Base, rows: Rows, room: Integers, layer: int, which: int, inputs: int, length: int, outputs: int, count: int
) -> None:
    """One linear layer of all rows with their adapters: (rows, length) at `inputs` to (rows, count) at `outputs`."""
    matrix = base.linears[layer, which]
    x_stride, y_stride, number = length * _FLOAT, count * _FLOAT, len(rows.tokens)
    multiply(matrix[1], matrix[0], matrix[2], inputs, x_stride, outputs, y_stride, length, count, number)
    inner = room[INNER]
    for row in range(number):
        y = outputs + row * y_stride
        if matrix[3]:
            add(matrix[3], y, count)
        adapter = rows.adapters[row, layer, which]
        if adapter[2]:
            strength, x = rows.strengths[row], inputs + row * x_stride
            add_low_rank(adapter[0], adapter[1], adapter[2], strength, x, length, y, count, inner)


@compiled
def _norm_rows(scale: int, epsilon: float, inputs: int, outputs: int, length: int, rows: int) -> None:
    for row in range(rows):
        norm(inputs + row * length * _FLOAT, scale, epsilon, outputs + row * length * _FLOAT, length)


@compiled
def _attention(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    """From queries, keys and values in `room` to what is attended."""
    heads, groups, size, kind = base.sizes[1], base.sizes[2], base.sizes[3], base.sizes[7]
    epsilon, scale = base.numbers[0], base.numbers[2]
    query_norm, key_norm = base.norms[layer, OF_QUERY], base.norms[layer, OF_KEY]
    cosines, sines, window = base.rotations[layer, 0], base.rotations[layer, 1], base.windows[layer]
    for row in range(len(rows.tokens)):
        query = room[QUERIES] + row * heads * size * _FLOAT
        key = room[KEYS] + row * groups * size * _FLOAT
        value = room[VALUES] + row * groups * size * _FLOAT
        if query_norm:
            _norm_rows(query_norm, epsilon, query, query, size, heads)
        if key_norm:
            _norm_rows(key_norm, epsilon, key, key, size, groups)
        position = rows.positions[row]
        angle = position * (size // 2) * _FLOAT
        rotate(query, heads, size, cosines + angle, sines + angle)
        rotate(key, groups, size, cosines + angle, sines + angle)
        keys, values, stride = rows.caches[row, layer, 0], rows.caches[row, layer, 1], rows.strides[row]
        keep(kind, groups, size, key, keys, stride, position)
        keep(kind, groups, size, value, values, stride, position)
        first = max(0, position + 1 - window) if window else 0
        attended = room[ATTENDED] + row * heads * size * _FLOAT
        scores = room[SCORES]
        attend(kind, heads, groups, size, query, keys, values, stride, first, position + 1, scale, scores, attended)


@kept_compiled
def decode_step(base: Base, rows: Rows, room: Integers) -> None:
    """Logits (rows, vocabulary) into the room for them; the new tokens' keys and values into the caches."""
    hidden, heads, groups, size = base.sizes[0], base.sizes[1], base.sizes[2], base.sizes[3]
    between, vocabulary, activation = base.sizes[4], base.sizes[5], base.sizes[6]
    epsilon, number = base.numbers[0], len(rows.tokens)
    states, normed, attended = room[HIDDEN], room[NORMED], room[ATTENDED]
    query, key, value = room[QUERIES], room[KEYS], room[VALUES]
    gate, up = room[GATES], room[UPS]
    item = 4 if base.embedding[1] == FLOAT32 else 2
    for row in range(number):
        weights = base.embedding[0] + rows.tokens[row] * hidden * item
        embed(base.embedding[1], weights, base.numbers[1], states + row * hidden * _FLOAT, hidden)
    for layer in range(len(base.windows)):
        norms = base.norms[layer]
        _norm_rows(norms[BEFORE_ATTENTION], epsilon, states, normed, hidden, number)
        _linear(base, rows, room, layer, int64(QUERY), normed, hidden, query, heads * size)
        _linear(base, rows, room, layer, int64(KEY), normed, hidden, key, groups * size)
        _linear(base, rows, room, layer, int64(VALUE), normed, hidden, value, groups * size)
        _attention(base, rows, room, layer)
        _linear(base, rows, room, layer, int64(OUTPUT), attended, heads * size, normed, hidden)
        if norms[AFTER_ATTENTION]:
            _norm_rows(norms[AFTER_ATTENTION], epsilon, normed, normed, hidden, number)
        add(normed, states, number * hidden)
        _norm_rows(norms[BEFORE_MLP], epsilon, states, normed, hidden, number)
        _linear(base, rows, room, layer, int64(GATE), normed, hidden, gate, between)
        _linear(base, rows, room, layer, int64(UP), normed, hidden, up, between)
        activate(activation, gate, up, number * between)
        _linear(base, rows, room, layer, int64(DOWN), gate, between, normed, hidden)
        if norms[AFTER_MLP]:
            _norm_rows(norms[AFTER_MLP], epsilon, normed, normed, hidden, number)
        add(normed, states, number * hidden)
    _norm_rows(base.end[0], epsilon, states, normed, hidden, number)
    logits, stride = room[LOGITS], vocabulary * _FLOAT
    head, kind, scales, bias = base.end[1], base.end[2], base.end[3], base.end[4]
    multiply(kind, head, scales, normed, hidden * _FLOAT, logits, stride, hidden, vocabulary, number)
    if bias:
        for row in range(number):
            add(bias, logits + row * stride, vocabulary)
