"""A pass, compiled: a token for each row goes through all layers, and logits of what follows it come out.

    stage      its parts are      what is made
    ENTER      rows               what the layer before has come to is added, or the embedding; norm
    PROJECT    outputs            queries, keys, values
    KEEP       rows               norm of heads, rotation; keys and values into the caches
    TURN       groups             what attention to a prompt in pairs begins with
    ATTEND     rows and groups    attention; of a prompt, blocks of rows
    COMBINE    outputs            what comes out of attention
    BETWEEN    rows               [norm], add, norm
    EXPAND     outputs            gate and up
    ACTIVATE   rows               activation
    CONTRACT   outputs            down
               …                  the next layer
    LEAVE      rows               as ENTER; norm of what logits are wanted of
    HEAD       outputs            logits

What a base does not have, its table has no address for. What biases and adapters add to products comes at the
beginning of the next stage of rows. Rows may be tokens of one prompt, one behind the other: each sees what those before
it have put into their cache. Numbers are the same to the bit in however many parts the stages are made.
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
from adapter_service.decoding.products import OUTPUTS_TOGETHER, add_low_rank, multiply_outputs
from adapter_service.decoding.prompt_attention import ROWS_OF_PAIRS, attend_to_prompt, turn
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
    INNER_STRIDE,
    KEYS,
    LOGITS,
    NORMED,
    OF_KEY,
    OF_QUERY,
    OUTPUT,
    QUERIES,
    QUERY,
    ROUNDED,
    ROUNDED_BETWEEN,
    SCORES,
    SCORES_STRIDE,
    TURNED,
    UPS,
    VALUES,
    Base,
    Integers,
    Rows,
)
from adapter_service.decoding.team import (
    MOST_PARTS,
    begin,
    close,
    members_of,
    next_for_helper,
    next_for_leader,
    open_stage,
    part_of,
    parts_of,
    stage_of,
)
from adapter_service.decoding.vectors import BFLOAT16, FLOAT, FLOAT32, ITEM_SIZES

# The stages of a layer. LEAVE and HEAD are what comes when there is no further layer.
STAGES = 10
ENTER, PROJECT, KEEP, TURN, ATTEND, COMBINE, BETWEEN, EXPAND, ACTIVATE, CONTRACT = range(STAGES)
LEAVE, HEAD = ENTER, PROJECT
# Stages behind the last layer.
STAGES_OF_END = 2
# Parts for each thread, where there is so much: of outputs, whose last ones should not keep others waiting, and of
# rows, whose adapters are read once for some of them.
_PARTS_OF_OUTPUTS, _PARTS_OF_ROWS = 32, 2
_BFLOAT = ITEM_SIZES[BFLOAT16]


# Where the inputs and outputs of linear layers are, from QUERY to DOWN.
_INPUTS = (NORMED, NORMED, NORMED, ATTENDED, NORMED, NORMED, GATES)
_INPUTS_OF_PAIRS = (ROUNDED, ROUNDED, ROUNDED, ROUNDED_BETWEEN, ROUNDED, ROUNDED, ROUNDED_BETWEEN)
_OUTPUTS = (QUERIES, KEYS, VALUES, NORMED, GATES, UPS, NORMED)
# The linear layers of a stage: the first, and the one behind the last.
_LINEARS = {PROJECT: (QUERY, OUTPUT), COMBINE: (OUTPUT, GATE), EXPAND: (GATE, DOWN), CONTRACT: (DOWN, DOWN + 1)}
_FIRST_LINEAR = tuple(_LINEARS.get(stage, (0, 0))[0] for stage in range(STAGES))
_BEHIND_LINEARS = tuple(_LINEARS.get(stage, (0, 0))[1] for stage in range(STAGES))


@compiled
def _inputs(base: Base, room: Integers, which: int) -> int:
    """The address of those of a linear layer."""
    address: int = room[_INPUTS_OF_PAIRS[which] if base.in_pairs else _INPUTS[which]]
    return address


@compiled
def _blocks(count: int, size: int) -> int:
    """How many there are of so many, also of less than `size` at the end."""
    return (count + size - 1) // size


@compiled
def _strips(outputs: int) -> int:
    blocks: int = _blocks(outputs, OUTPUTS_TOGETHER)
    return blocks


@compiled
def _block(base: Base) -> int:
    """Rows of a prompt that attend at once."""
    return ROWS_OF_PAIRS if base.in_pairs else ROWS_IN_ORDER


@compiled
def _strips_of(base: Base, stage: int) -> int:
    """How many strips the linear layers of a stage have."""
    strips = 0
    for which in range(_FIRST_LINEAR[stage], _BEHIND_LINEARS[stage]):
        strips += _strips(base.shapes[which, 0])
    return strips


@compiled
def _parts(base: Base, rows: Rows, members: int, stage: int) -> int:
    """How many parts a stage is made in."""
    count, layer, of_layer, parts = len(rows.tokens), stage // STAGES, stage % STAGES, 1
    if members > 1 and count:
        if layer == len(base.windows) and of_layer == HEAD:
            parts = min(_PARTS_OF_OUTPUTS * members, _strips(base.vocabulary))
        elif _BEHIND_LINEARS[of_layer]:
            parts = min(_PARTS_OF_OUTPUTS * members, _strips_of(base, of_layer))
        elif of_layer == TURN:
            parts = base.groups if base.in_pairs else 1
        elif of_layer == ATTEND:
            parts = _blocks(count, _block(base)) if base.of_prompt else count * base.groups
        else:
            parts = min(_PARTS_OF_ROWS * members, count)
    return min(parts, MOST_PARTS)


@compiled_into_caller
def _multiply(base: Base, rows: Rows, room: Integers, layer: int, stage: int, part: int, parts: int) -> None:
    """Some strips of the outputs of a stage's linear layers, one behind the other, without bias and adapters."""
    strips, before = _strips_of(base, stage), 0
    first, end = strips * part // parts, strips * (part + 1) // parts
    for which in range(_FIRST_LINEAR[stage], _BEHIND_LINEARS[stage]):
        width, length = base.shapes[which]
        output = max(0, first - before) * OUTPUTS_TOGETHER
        count = min(width, (end - before) * OUTPUTS_TOGETHER) - output
        before += _strips(width)
        if count > 0:
            x, x_stride = _inputs(base, room, which), length * (_BFLOAT if base.in_pairs else FLOAT)
            y, y_stride = room[_OUTPUTS[which]], width * FLOAT
            matrix, number = base.linears[layer, which], len(rows.tokens)
            multiply_outputs(matrix, output, count, x, x_stride, y, y_stride, length, number)


@compiled
def _complete(base: Base, rows: Rows, room: Integers, layer: int, which: int, first: int, end: int) -> None:
    """Add bias and adapters to a linear layer's outputs of the rows `first` to before `end`."""
    adapters, strengths, kind = rows.adapters[:, layer, which], rows.strengths, base.adapter_kind
    (width, length), bias, outputs = base.shapes[which], base.linears[layer, which, 3], room[_OUTPUTS[which]]
    x_stride, y_stride = length * (_BFLOAT if base.in_pairs else FLOAT), width * FLOAT
    if bias:
        for row in range(first, end):
            add(bias, outputs + row * y_stride, width)
    row = first
    while row < end:
        a, b, rank = adapters[row]
        strength, behind = strengths[row], row + 1
        while behind < end and adapters[behind, 0] == a and strengths[behind] == strength:  # of one adapter together
            behind += 1
        if rank:
            x, y = _inputs(base, room, which) + row * x_stride, outputs + row * y_stride
            inner = room[INNER] + row * room[INNER_STRIDE]
            add_low_rank(kind, a, b, rank, strength, x, x_stride, length, y, y_stride, width, behind - row, inner)
        row = behind


@compiled
def _norm_rows(scale: int, epsilon: float, inputs: int, outputs: int, length: int, first: int, end: int) -> None:
    for row in range(first, end):
        norm(inputs + row * length * FLOAT, scale, epsilon, outputs + row * length * FLOAT, length)


@compiled
def _round(base: Base, numbers: int, rounded: int, length: int, first: int, end: int) -> None:
    """(rows, length) of inputs, where products want them rounded."""
    if base.in_pairs:
        start, count = first * length, (end - first) * length
        round_to_pairs(numbers + start * FLOAT, rounded + start * _BFLOAT, count)


@compiled_into_caller
def _embed(base: Base, rows: Rows, room: Integers, first: int, end: int) -> None:
    item = FLOAT if base.embedding[1] == FLOAT32 else _BFLOAT
    for row in range(first, end):
        weights = base.embedding[0] + rows.tokens[row] * base.hidden * item
        embed(base.embedding[1], weights, base.embedding_factor, room[HIDDEN] + row * base.hidden * FLOAT, base.hidden)


@compiled_into_caller
def _add_to_states(base: Base, rows: Rows, room: Integers, layer: int, which: int, first: int, end: int) -> None:
    """What the half of a layer has come to whose last linear layer is `which`."""
    hidden, normed = base.hidden, room[NORMED]
    _complete(base, rows, room, layer, which, first, end)
    scale = base.norms[layer, AFTER_ATTENTION if which == OUTPUT else AFTER_MLP]
    if scale:
        _norm_rows(scale, base.epsilon, normed, normed, hidden, first, end)
    start = first * hidden * FLOAT
    add(normed + start, room[HIDDEN] + start, (end - first) * hidden)


@compiled_into_caller
def _begin_half(base: Base, rows: Rows, room: Integers, layer: int, of_layer: int, first: int, end: int) -> None:
    """From what came out before to the inputs of a half of a layer, or of the head."""
    is_second, hidden, normed = of_layer == BETWEEN, base.hidden, room[NORMED]
    if layer == 0 and not is_second:
        _embed(base, rows, room, first, end)
    else:
        before, which = (layer, OUTPUT) if is_second else (layer - 1, DOWN)
        _add_to_states(base, rows, room, before, which, first, end)
    if layer < len(base.windows):
        scale = base.norms[layer, BEFORE_MLP if is_second else BEFORE_ATTENTION]
    else:
        scale, first = base.final_norm, max(first, len(rows.tokens) - rows.wanted)
    _norm_rows(scale, base.epsilon, room[HIDDEN], normed, hidden, first, end)
    _round(base, normed, room[ROUNDED], hidden, first, max(first, end))


@compiled_into_caller
def _keep(base: Base, rows: Rows, room: Integers, layer: int, first: int, end: int) -> None:
    """Turn queries and keys in `room`; put keys and values into the caches."""
    heads, groups, size, kind, epsilon = base.heads, base.groups, base.head_size, base.cache_kind, base.epsilon
    query_norm, key_norm = base.norms[layer, OF_QUERY], base.norms[layer, OF_KEY]
    cosines, sines = base.rotations[layer, 0], base.rotations[layer, 1]
    for which in range(QUERY, OUTPUT):
        _complete(base, rows, room, layer, which, first, end)
    for row in range(first, end):
        query = room[QUERIES] + row * heads * size * FLOAT
        key = room[KEYS] + row * groups * size * FLOAT
        value = room[VALUES] + row * groups * size * FLOAT
        if query_norm:
            _norm_rows(query_norm, epsilon, query, query, size, int64(0), heads)
        if key_norm:
            _norm_rows(key_norm, epsilon, key, key, size, int64(0), groups)
        position = rows.positions[row]
        angle = position * (size // 2) * FLOAT
        rotate(query, heads, size, cosines + angle, sines + angle)
        rotate(key, groups, size, cosines + angle, sines + angle)
        keys, values, stride = rows.caches[row, layer, 0], rows.caches[row, layer, 1], rows.strides[row]
        keep(kind, groups, size, key, keys, stride, position)
        keep(kind, groups, size, value, values, stride, position)
    _round(base, room[QUERIES], room[ROUNDED_BETWEEN], heads * size, first, end)


@compiled_into_caller
def _turn(base: Base, rows: Rows, room: Integers, layer: int, part: int, parts: int) -> None:
    if base.in_pairs:
        values, stride, window = rows.caches[0, layer, 1], rows.strides[0], base.windows[layer]
        for group in range(base.groups * part // parts, base.groups * (part + 1) // parts):
            turn(group, base.head_size, values, stride, rows.positions, window, room[TURNED])


@compiled_into_caller
def _attend_to_prompt(base: Base, rows: Rows, room: Integers, layer: int, first: int, end: int, scores: int) -> None:
    """Of rows of one prompt."""
    heads, groups, size, window = base.heads, base.groups, base.head_size, base.windows[layer]
    keys, values, stride = rows.caches[0, layer, 0], rows.caches[0, layer, 1], rows.strides[0]
    attended = room[ATTENDED]
    if base.in_pairs:
        for row in range(first, end, ROWS_OF_PAIRS):
            attend_to_prompt(
                heads, groups, size, room[ROUNDED_BETWEEN], keys, stride, room[TURNED], rows.positions, window,
                base.score_scale, row, min(ROWS_OF_PAIRS, end - row), scores, attended,
            )  # fmt: skip
        return
    for row in range(first, end, ROWS_IN_ORDER):
        own, count = row * heads * size * FLOAT, min(ROWS_IN_ORDER, end - row)
        attend_in_order(
            base.cache_kind, heads, groups, size, room[QUERIES] + own, keys, values, stride, rows.positions[row],
            count, window, base.score_scale, scores, attended + own,
        )  # fmt: skip


@compiled_into_caller
def _attend(base: Base, rows: Rows, room: Integers, layer: int, part: int, parts: int, worker: int) -> None:
    """From queries in `room` and what is in the caches to what is attended."""
    heads, groups, size, window = base.heads, base.groups, base.head_size, base.windows[layer]
    together, count, scores = heads // groups, len(rows.tokens), room[SCORES] + worker * room[SCORES_STRIDE]
    if base.of_prompt:
        block = _block(base)
        blocks = _blocks(count, block)
        first, end = blocks * part // parts * block, min(count, blocks * (part + 1) // parts * block)
        _attend_to_prompt(base, rows, room, layer, first, end, scores)
        _round(base, room[ATTENDED], room[ROUNDED_BETWEEN], heads * size, first, end)
        return
    for number in range(count * groups * part // parts, count * groups * (part + 1) // parts):
        row, group = number // groups, number % groups
        place, of_group = (row * heads + group * together) * size * FLOAT, group * rows.strides[row]
        keys, values = rows.caches[row, layer, 0] + of_group, rows.caches[row, layer, 1] + of_group
        end = rows.positions[row] + 1
        first = max(0, end - window) if window else 0
        query, attended = room[QUERIES] + place, room[ATTENDED] + place
        attend(
            base.cache_kind, together, size, query, keys, values, first, end, base.score_scale, scores, attended
        )  # fmt: skip


@compiled_into_caller
def _activate(base: Base, rows: Rows, room: Integers, layer: int, first: int, end: int) -> None:
    between, gates = base.between, room[GATES]
    for which in range(GATE, DOWN):
        _complete(base, rows, room, layer, which, first, end)
    for row in range(first, end):
        start = row * between * FLOAT
        activate(base.activation, gates + start, room[UPS] + start, between)
    _round(base, gates, room[ROUNDED_BETWEEN], between, first, end)


@compiled_into_caller
def _logits(base: Base, rows: Rows, room: Integers, part: int, parts: int) -> None:
    hidden, vocabulary, strips = base.hidden, base.vocabulary, _strips(base.vocabulary)
    output = strips * part // parts * OUTPUTS_TOGETHER
    count = min(vocabulary, strips * (part + 1) // parts * OUTPUTS_TOGETHER) - output if rows.wanted else 0
    x_stride = hidden * (_BFLOAT if base.in_pairs else FLOAT)
    x = _inputs(base, room, int64(QUERY)) + (len(rows.tokens) - rows.wanted) * x_stride
    logits, stride = room[LOGITS], vocabulary * FLOAT
    multiply_outputs(base.head, output, count, x, x_stride, logits, stride, hidden, rows.wanted)
    if base.head[3]:
        for row in range(rows.wanted):
            add(base.head[3] + output * FLOAT, logits + row * stride + output * FLOAT, count)


@compiled_into_caller
def _make_part(base: Base, rows: Rows, room: Integers, stage: int, part: int, parts: int, worker: int) -> None:
    """A part of a stage."""
    layer, of_layer, count = stage // STAGES, stage % STAGES, len(rows.tokens)
    first, end = count * part // parts, count * (part + 1) // parts
    if of_layer in (ENTER, BETWEEN):
        _begin_half(base, rows, room, layer, of_layer, first, end)
    elif layer == len(base.windows):
        _logits(base, rows, room, part, parts)
    elif of_layer == KEEP:
        _keep(base, rows, room, layer, first, end)
    elif of_layer == TURN:
        _turn(base, rows, room, layer, part, parts)
    elif of_layer == ATTEND:
        _attend(base, rows, room, layer, part, parts, worker)
    elif of_layer == ACTIVATE:
        _activate(base, rows, room, layer, first, end)
    else:
        _multiply(base, rows, room, layer, of_layer, part, parts)


@kept_compiled
def make_pass(base: Base, rows: Rows, room: Integers, team: Integers, worker: int, first: int, end: int) -> None:
    """The stages `first` to before `end`, which the next call goes on from; at the end logits.

    Worker 0 leads; the others help until it is done, and are called with the same. Logits are (rows.wanted,
    vocabulary), in the room for them; the new tokens' keys and values are in the caches.
    """
    stage, taken = first - 1, int64(-1)
    if not worker:
        begin(team)
    while True:
        if worker:
            taken = next_for_helper(team, taken)
        else:
            if taken >= 0:
                taken = next_for_leader(team, taken)
            if taken < 0 and stage + 1 < end:
                stage += 1
                taken = open_stage(team, stage, _parts(base, rows, members_of(team), stage))
        if taken < 0:
            break
        _make_part(base, rows, room, stage_of(taken), part_of(taken), parts_of(taken), worker)
    if not worker:
        close(team)
