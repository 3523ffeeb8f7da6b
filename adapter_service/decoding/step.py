"""One step, compiled: a token for each row goes through all layers, and logits of what follows it come out.

    embedding
    for each layer      norm, queries keys values, [norm of heads], rotation, attention, output, [norm], add
                        norm, gate and up, activation, down, [norm], add
    norm, head

What a base does not have, its table has no address for. Every product of a row with a matrix is followed by that of
its adapter. Rows may be tokens of one prompt, one behind the other: each sees what those before it have put into their
cache. Those that are shared out among threads wait for one another in the middle of every layer.
"""

from __future__ import annotations

from numba import int64

from adapter_service.decoding.compiling import compiled, compiled_into_caller, kept_compiled
from adapter_service.decoding.layers import (
    ROWS_IN_ORDER,
    activate,
    add,
    attend,
    attend_in_order,
    embed,
    keep,
    norm,
    rotate,
)
from adapter_service.decoding.pairs import round_to_pairs
from adapter_service.decoding.products import add_low_rank, multiply
from adapter_service.decoding.prompt_attention import attend_to_prompt
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
    ROUNDED,
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
def _inputs(base: Base, room: Integers, inputs: int, length: int, rows: int) -> int:
    """Where products find `inputs` (rows, length): those themselves, or rounded."""
    found: int = inputs
    if base.in_pairs:
        found = room[ROUNDED]
        round_to_pairs(inputs, found, rows * length)
    return found


@compiled
def _linear(
    base: Base, rows: Rows, room: Integers, layer: int, which: int, inputs: int, length: int, outputs: int, count: int
) -> None:
    """One linear layer of all rows with their adapters: (rows, length) of `_inputs` to (rows, count) at `outputs`."""
    matrix, adapters, strengths = base.linears[layer, which], rows.adapters[:, layer, which], rows.strengths
    x_stride, y_stride, number = length * (_BFLOAT if base.in_pairs else FLOAT), count * FLOAT, len(rows.tokens)
    multiply(matrix[1], matrix[0], matrix[2], inputs, x_stride, outputs, y_stride, length, count, number)
    if matrix[3]:
        for row in range(number):
            add(matrix[3], outputs + row * y_stride, count)
    row = 0
    while row < number:
        a, b, rank = adapters[row]
        strength, end = strengths[row], row + 1
        while end < number and adapters[end, 0] == a and strengths[end] == strength:  # those of one adapter together
            end += 1
        if rank:
            x, y, kind = inputs + row * x_stride, outputs + row * y_stride, base.adapter_kind
            add_low_rank(kind, a, b, rank, strength, x, x_stride, length, y, y_stride, count, end - row, room[INNER])
        row = end


@compiled
def _norm_rows(scale: int, epsilon: float, inputs: int, outputs: int, length: int, rows: int) -> None:
    for row in range(rows):
        norm(inputs + row * length * FLOAT, scale, epsilon, outputs + row * length * FLOAT, length)


@compiled_into_caller
def _keep(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    """Turn queries and keys in `room`; put keys and values into the caches."""
    heads, groups, size, kind, epsilon = base.heads, base.groups, base.head_size, base.cache_kind, base.epsilon
    query_norm, key_norm = base.norms[layer, OF_QUERY], base.norms[layer, OF_KEY]
    cosines, sines = base.rotations[layer, 0], base.rotations[layer, 1]
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


@compiled_into_caller
def _attend(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    """From queries in `room` and what is in the caches to what is attended."""
    heads, groups, size, kind, window = base.heads, base.groups, base.head_size, base.cache_kind, base.windows[layer]
    if base.in_pairs:
        keys, values, stride = rows.caches[0, layer, 0], rows.caches[0, layer, 1], rows.strides[0]
        attend_to_prompt(
            heads, groups, size, room[QUERIES], room[ROUNDED], keys, values, stride, rows.positions, window,
            base.score_scale, room[SCORES], room[ATTENDED],
        )  # fmt: skip
        return
    if base.of_prompt:
        keys, values, stride = rows.caches[0, layer, 0], rows.caches[0, layer, 1], rows.strides[0]
        for row in range(0, len(rows.tokens), ROWS_IN_ORDER):
            count, own = min(ROWS_IN_ORDER, len(rows.tokens) - row), row * heads * size * FLOAT
            attend_in_order(
                kind, heads, groups, size, room[QUERIES] + own, keys, values, stride, rows.positions[row], count,
                window, base.score_scale, room[SCORES], room[ATTENDED] + own,
            )  # fmt: skip
        return
    for row in range(len(rows.tokens)):
        query = room[QUERIES] + row * heads * size * FLOAT
        keys, values, stride = rows.caches[row, layer, 0], rows.caches[row, layer, 1], rows.strides[row]
        end = rows.positions[row] + 1
        first = max(0, end - window) if window else 0
        attended, scores = room[ATTENDED] + row * heads * size * FLOAT, room[SCORES]
        attend(kind, heads, groups, size, query, keys, values, stride, first, end, base.score_scale, scores, attended)


@compiled_into_caller
def _embedding(base: Base, rows: Rows, room: Integers) -> None:
    item = FLOAT if base.embedding[1] == FLOAT32 else _BFLOAT
    for row in range(len(rows.tokens)):
        weights = base.embedding[0] + rows.tokens[row] * base.hidden * item
        state = room[HIDDEN] + row * base.hidden * FLOAT
        embed(base.embedding[1], weights, base.embedding_factor, state, base.hidden)


@compiled_into_caller
def _before_attention(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    hidden, count, normed = base.hidden, len(rows.tokens), room[NORMED]
    queries, keys = base.heads * base.head_size, base.groups * base.head_size
    _norm_rows(base.norms[layer, BEFORE_ATTENTION], base.epsilon, room[HIDDEN], normed, hidden, count)
    inputs = _inputs(base, room, normed, hidden, count)
    _linear(base, rows, room, layer, int64(QUERY), inputs, hidden, room[QUERIES], queries)
    _linear(base, rows, room, layer, int64(KEY), inputs, hidden, room[KEYS], keys)
    _linear(base, rows, room, layer, int64(VALUE), inputs, hidden, room[VALUES], keys)
    _keep(base, rows, room, layer)


@compiled_into_caller
def _from_attention_on(base: Base, rows: Rows, room: Integers, layer: int) -> None:
    hidden, attended, between = base.hidden, base.heads * base.head_size, base.between
    epsilon, count, norms = base.epsilon, len(rows.tokens), base.norms[layer]
    states, normed = room[HIDDEN], room[NORMED]
    _attend(base, rows, room, layer)
    inputs = _inputs(base, room, room[ATTENDED], attended, count)
    _linear(base, rows, room, layer, int64(OUTPUT), inputs, attended, normed, hidden)
    if norms[AFTER_ATTENTION]:
        _norm_rows(norms[AFTER_ATTENTION], epsilon, normed, normed, hidden, count)
    add(normed, states, count * hidden)
    _norm_rows(norms[BEFORE_MLP], epsilon, states, normed, hidden, count)
    inputs = _inputs(base, room, normed, hidden, count)
    _linear(base, rows, room, layer, int64(GATE), inputs, hidden, room[GATES], between)
    _linear(base, rows, room, layer, int64(UP), inputs, hidden, room[UPS], between)
    activate(base.activation, room[GATES], room[UPS], count * between)
    inputs = _inputs(base, room, room[GATES], between, count)
    _linear(base, rows, room, layer, int64(DOWN), inputs, between, normed, hidden)
    if norms[AFTER_MLP]:
        _norm_rows(norms[AFTER_MLP], epsilon, normed, normed, hidden, count)
    add(normed, states, count * hidden)


@compiled_into_caller
def _logits(base: Base, rows: Rows, room: Integers) -> None:
    hidden, vocabulary, head, count, normed = base.hidden, base.vocabulary, base.head, rows.wanted, room[NORMED]
    states = room[HIDDEN] + (len(rows.tokens) - count) * hidden * FLOAT
    _norm_rows(base.final_norm, base.epsilon, states, normed, hidden, count)
    inputs = _inputs(base, room, normed, hidden, count)
    logits, stride, x_stride = room[LOGITS], vocabulary * FLOAT, hidden * (_BFLOAT if base.in_pairs else FLOAT)
    multiply(head[1], head[0], head[2], inputs, x_stride, logits, stride, hidden, vocabulary, count)
    if head[3]:
        for row in range(count):
            add(head[3], logits + row * stride, vocabulary)


@kept_compiled
def decode_step(base: Base, rows: Rows, room: Integers, begin: int, end: int) -> None:
    """The halves `begin` to before `end` of the decoder layers, which the next call goes on from; at the end logits.

    The first half of a layer is what is before attention. Logits are (rows.wanted, vocabulary), in the room for them;
    the new tokens' keys and values are in the caches.
    """
    if begin == 0:
        _embedding(base, rows, room)
    for half in range(begin, end):
        if half % 2 == 0:
            _before_attention(base, rows, room, half // 2)
        else:
            _from_attention_on(base, rows, room, half // 2)
    if end == 2 * len(base.windows) and rows.wanted:
        _logits(base, rows, room)
