"""One step, compiled: a token for each row goes through all layers, and logits of what follows it come out.

    embedding
    for each layer      norm, queries keys values, [norm of heads], rotation, attention, output, [norm], add
                        norm, gate and up, activation, down, [norm], add
    norm, head

What a base does not have, its table has no address for. Every product of a row with a matrix is followed by that of
its adapter.
"""

from __future__ import annotations

from numba import int64

from adapter_service.decoding.compiling import compiled, kept_compiled
from adapter_service.decoding.layers import activate, add, attend, embed, keep, norm, rotate
from adapter_service.decoding.products import add_low_rank, multiply
from adapter_service.decoding.tables import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ATTENDED,
    BEFORE_ATTENTION,
    BEFORE_MLP,
    DOWN,
    GATE,
    GATES,
    HIDDEN,
    INNER,
    KEY,
    KEYS,
    LOGITS,
    NORMED,
    OF_KEY,
    OF_QUERY,
    OUTPUT,
    QUERIES,
    QUERY,
    SCORES,
    UP,
    UPS,
    VALUE,
    VALUES,
    Base,
    Integers,
    Rows,
)
from adapter_service.decoding.vectors import BFLOAT16, FLOAT, FLOAT32, ITEM_SIZES

_BFLOAT = ITEM_SIZES[BFLOAT16]


@compiled
def _linear(
    base: Base, rows: Rows, room: Integers, layer: int, which: int, inputs: int, length: int, outputs: int, count: int
) -> None:
    """One linear layer of all rows with their adapters: (rows, length) at `inputs` to (rows, count) at `outputs`."""
    matrix = base.linears[layer, which]
    x_stride, y_stride, number = length * FLOAT, count * FLOAT, len(rows.tokens)
    multiply(matrix[1], matrix[0], matrix[2], inputs, x_stride, outputs, y_stride, length, count, number)
    inner = room[INNER]
    for row in range(number):
        y = outputs + row * y_stride
        if matrix[3]:
            add(matrix[3], y, count)
        adapter = rows.adapters[row, layer, which]
        if adapter[2]:
            strength, x = rows.strengths[row], inputs + row * x_stride
            kind = base.adapter_kind
            add_low_rank(kind, adapter[0], adapter[1], adapter[2], strength, x, length, y, count, inner)


@compiled
def _norm_rows(scale: int, epsilon: float, inputs: int, outputs: int, length: int, rows: int) -> None:
    for row in range(rows):
        norm(inputs + row * length * FLOAT, scale, epsilon, outputs + row * length * FLOAT, length)


@compiled
def _attention(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    """From queries, keys and values in `room` to what is attended."""
    heads, groups, size, kind, epsilon = base.heads, base.groups, base.head_size, base.cache_kind, base.epsilon
    query_norm, key_norm = base.norms[layer, OF_QUERY], base.norms[layer, OF_KEY]
    cosines, sines, window = base.rotations[layer, 0], base.rotations[layer, 1], base.windows[layer]
    for row in range(len(rows.tokens)):
        query = room[QUERIES] + row * heads * size * FLOAT
        key = room[KEYS] + row * groups * size * FLOAT
        value = room[VALUES] + row * groups * size * FLOAT
        if query_norm:
            _norm_rows(query_norm, epsilon, query, query, size, heads)
        if key_norm:
            _norm_rows(key_norm, epsilon, key, key, size, groups)
        position = rows.positions[row]
        angle = position * (size // 2) * FLOAT
        rotate(query, heads, size, cosines + angle, sines + angle)
        rotate(key, groups, size, cosines + angle, sines + angle)
        keys, values, stride = rows.caches[row, layer, 0], rows.caches[row, layer, 1], rows.strides[row]
        keep(kind, groups, size, key, keys, stride, position)
        keep(kind, groups, size, value, values, stride, position)
        first, end = max(0, position + 1 - window) if window else 0, position + 1
        attended, scores = room[ATTENDED] + row * heads * size * FLOAT, room[SCORES]
        attend(kind, heads, groups, size, query, keys, values, stride, first, end, base.score_scale, scores, attended)


@compiled
def _embedding(base: Base, rows: Rows, room: Integers) -> None:
    item = FLOAT if base.embedding[1] == FLOAT32 else _BFLOAT
    for row in range(len(rows.tokens)):
        weights = base.embedding[0] + rows.tokens[row] * base.hidden * item
        state = room[HIDDEN] + row * base.hidden * FLOAT
        embed(base.embedding[1], weights, base.embedding_factor, state, base.hidden)


@compiled
def _decoder_layer(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    hidden, attended, epsilon, count = base.hidden, base.heads * base.head_size, base.epsilon, len(rows.tokens)
    keys, between, norms = base.groups * base.head_size, base.between, base.norms[layer]
    states, normed = room[HIDDEN], room[NORMED]
    _norm_rows(norms[BEFORE_ATTENTION], epsilon, states, normed, hidden, count)
    _linear(base, rows, room, layer, int64(QUERY), normed, hidden, room[QUERIES], attended)
    _linear(base, rows, room, layer, int64(KEY), normed, hidden, room[KEYS], keys)
    _linear(base, rows, room, layer, int64(VALUE), normed, hidden, room[VALUES], keys)
    _attention(base, rows, room, layer)
    _linear(base, rows, room, layer, int64(OUTPUT), room[ATTENDED], attended, normed, hidden)
    if norms[AFTER_ATTENTION]:
        _norm_rows(norms[AFTER_ATTENTION], epsilon, normed, normed, hidden, count)
    add(normed, states, count * hidden)
    _norm_rows(norms[BEFORE_MLP], epsilon, states, normed, hidden, count)
    _linear(base, rows, room, layer, int64(GATE), normed, hidden, room[GATES], between)
    _linear(base, rows, room, layer, int64(UP), normed, hidden, room[UPS], between)
    activate(base.activation, room[GATES], room[UPS], count * between)
    _linear(base, rows, room, layer, int64(DOWN), room[GATES], between, normed, hidden)
    if norms[AFTER_MLP]:
        _norm_rows(norms[AFTER_MLP], epsilon, normed, normed, hidden, count)
    add(normed, states, count * hidden)


@compiled
def _logits(base: Base, rows: Rows, room: Integers) -> None:
    hidden, vocabulary, count, normed = base.hidden, base.vocabulary, len(rows.tokens), room[NORMED]
    _norm_rows(base.final_norm, base.epsilon, room[HIDDEN], normed, hidden, count)
    logits, stride, head = room[LOGITS], vocabulary * FLOAT, base.head
    multiply(head[1], head[0], head[2], normed, hidden * FLOAT, logits, stride, hidden, vocabulary, count)
    if head[3]:
        for row in range(count):
            add(head[3], logits + row * stride, vocabulary)


@kept_compiled
def decode_step(base: Base, rows: Rows, room: Integers, begin: int, end: int) -> None:
    """The decoder layers `begin` to before `end`, which the next call goes on from; after the last one logits.

    Those are (rows, vocabulary), in the room for them; the new tokens' keys and values are in the caches.
    """
    if begin == 0:
        _embedding(base, rows, room)
    for layer in range(begin, end):
        _decoder_layer(base, rows, room, layer)
    if end == len(base.windows):
        _logits(base, rows, room)
