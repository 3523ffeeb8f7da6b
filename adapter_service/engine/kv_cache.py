"""Keys and values of the sequences under way: a place for each, in buffers of a few capacities.

A sequence's place is reserved for its prompt and all that may follow, so that nothing is ever moved or given up in
the middle. With some sixteen sequences that wastes little, and needs no tables of blocks. Places of one capacity lie
in one tensor for each layer, so that all their rows attend in one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# Room for so many tokens, or for a power of two times that.
_LEAST_CAPACITY = 256
# Rows attend to a whole number of these: the rest is masked.
_STRIDE = 64


@dataclass(frozen=True, slots=True)
class Place:
    """The `number`-th place of those for `capacity` tokens."""

    capacity: int
    number: int


# Keys and values (key-value heads, tokens, size) of each layer.
Block = list[tuple[torch.Tensor, torch.Tensor]]


class KvCache:
    """Places for sequences; `PromptAttention` and `StepAttention` fill them and attend to them."""

    def __init__(self) -> None:
        self._buffers: dict[int, _Buffer] = {}

    def take(self, tokens: int) -> Place:
        """Reserve a place for so many tokens."""
        capacity = max(_LEAST_CAPACITY, 1 << (tokens - 1).bit_length())
        return Place(capacity, self._buffers.setdefault(capacity, _Buffer(capacity)).take())

    def give_back(self, place: Place, *, clean: bool = False) -> None:
        """Free a place; the memory of larger ones goes with the last of them.

        What is masked is multiplied by zero, so that whoever had values that are no numbers has them taken away.
        """
        buffer = self._buffers[place.capacity]
        if clean:
            for keys, values in buffer.layers:
                keys[place.number] = 0
                values[place.number] = 0
        buffer.taken.discard(place.number)
        if not buffer.taken and place.capacity > _LEAST_CAPACITY:
            del self._buffers[place.capacity]

    def copy(self, source: Place, target: Place, tokens: int) -> None:
        """Give `target` the first `tokens` of `source`."""
        self.write(target, 0, self.read(source, 0, tokens))

    def read(self, place: Place, start: int, end: int) -> Block:
        """What is at the positions `start` to before `end`; views."""
        layers = self._buffers[place.capacity].layers
        return [(k[place.number, :, start:end], v[place.number, :, start:end]) for k, v in layers]

    def write(self, place: Place, start: int, block: Block) -> None:
        buffer = self._buffers[place.capacity]
        for number, (key, value) in enumerate(block):
            keys, values = buffer.layer(number, key, value)
            end = start + key.shape[1]
            keys[place.number, :, start:end] = key
            values[place.number, :, start:end] = value

    def buffer(self, capacity: int) -> _Buffer:
        return self._buffers[capacity]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for buffer in self._buffers.values() for layer in buffer.layers for tensor in layer)

    @property
    def taken_tokens(self) -> int:
        """Tokens that there is room for in the places that are taken."""
        return sum(buffer.capacity * len(buffer.taken) for buffer in self._buffers.values())


@dataclass(eq=False)
class _Buffer:
    """Places of one capacity: (places, key-value heads, capacity, size) for the keys of each layer, and the values."""

    capacity: int
    places: int = 1
    taken: set[int] = field(default_factory=set)
    layers: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def take(self) -> int:
        number = next(number for number in range(len(self.taken) + 1) if number not in self.taken)
        if number == self.places:
            self.layers = [(_doubled(keys), _doubled(values)) for keys, values in self.layers]
            self.places *= 2
        self.taken.add(number)
        return number

    def layer(self, number: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and values; made for heads like `key`'s and `value`'s (..., heads, tokens, size)."""
        if number == len(self.layers):
            self.layers.append((self._zeros(key), self._zeros(value)))
        return self.layers[number]

    def _zeros(self, heads: torch.Tensor) -> torch.Tensor:
        return heads.new_zeros(self.places, heads.shape[-3], self.capacity, heads.shape[-1])


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    larger = tensor.new_zeros(2 * len(tensor), *tensor.shape[1:])
    larger[: len(tensor)] = tensor
    return larger


class PromptAttention:
    """Attention of a piece of one prompt, `tokens` from the position `start` on."""

    def __init__(self, cache: KvCache, place: Place, start: int, tokens: int) -> None:
        self._buffer, self._number = cache.buffer(place.capacity), place.number
        self._start, self._end = start, start + tokens
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        keys, values = self._buffer.layer(layer, key, value)
        keys, values = keys[self._number : self._number + 1], values[self._number : self._number + 1]
        keys[:, :, self._start : self._end] = key
        values[:, :, self._start : self._end] = value
        _, heads, tokens, size = query.shape
        groups = key.shape[1]
        if window not in self._masks:
            self._masks[window] = self._mask(window, query.dtype, query.device, heads // groups)
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(1, groups, heads // groups * tokens, size),
            keys[:, :, : self._end],
            values[:, :, : self._end],
            attn_mask=self._masks[window],
            scale=scale,
        )
        return attended.view(1, heads, tokens, -1).transpose(1, 2)

    def _mask(self, window: int | None, dtype: torch.dtype, device: torch.device, repeats: int) -> torch.Tensor:
        """Minus infinity where a token does not look, (heads a group × tokens, positions)."""
        own = torch.arange(self._start, self._end, device=device)[:, None]
        others = torch.arange(self._end, device=device)
        return _bias(own, others, window, dtype).repeat(repeats, 1)


class StepAttention:
    """Attention of one new token for each of some rows, which are at `places` and `positions`."""

    def __init__(self, cache: KvCache, places: Sequence[Place], positions: Sequence[int], device: torch.device) -> None:
        capacities = sorted({place.capacity for place in places})
        self._parts = [
            _Part(
                cache.buffer(capacity),
                [
                    (row, place.number, position)
                    for row, (place, position) in enumerate(zip(places, positions, strict=True))
                    if place.capacity == capacity
                ],
                device,
            )
            for capacity in capacities
        ]
        together = [row for part in self._parts for row in part.rows]
        self._back = None
        if together != list(range(len(places))):
            back = sorted(range(len(together)), key=together.__getitem__)
            self._back = torch.tensor(back, device=device)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        attended = [part.attend(layer, query, key, value, scale, window) for part in self._parts]
        together = attended[0] if len(attended) == 1 else torch.cat(attended)
        return together if self._back is None else together.index_select(0, self._back)


class _Part:
    """Rows whose places have one capacity: (row of the pass, number of the place, position)."""

    def __init__(self, buffer: _Buffer, rows: list[tuple[int, int, int]], device: torch.device) -> None:
        self.rows = [row for row, _, _ in rows]
        self._buffer, self._device = buffer, device
        self._numbers = [number for _, number, _ in rows]
        self._positions = [position for _, _, position in rows]
        self._whole = self._numbers == list(range(len(rows)))
        self._row_index = torch.tensor(self.rows, device=device)
        # Places that nobody has taken compute what row 0 does, and nobody looks at it.
        of_place = dict(zip(self._numbers, range(len(rows)), strict=True))
        self._row_of_place = torch.tensor(
            [of_place.get(number, 0) for number in range(max(self._numbers) + 1)], device=device
        )
        self._number_index = torch.tensor(self._numbers, device=device)
        self._seen = -(-(max(self._positions) + 1) // _STRIDE) * _STRIDE
        self._masks: dict[int | None, torch.Tensor] = {}
        self._targets: dict[int, torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """(rows, 1, heads, size) of the part's rows, in their order."""
        keys, values = self._buffer.layer(layer, key, value)
        if len(self.rows) != len(query):
            query, key, value = (x.index_select(0, self._row_index) for x in (query, key, value))
        rows, heads, _, size = query.shape
        groups = key.shape[1]
        targets = self._targets_of(groups)
        keys.view(-1, keys.shape[-1]).index_copy_(0, targets, key.reshape(rows * groups, -1))
        values.view(-1, values.shape[-1]).index_copy_(0, targets, value.reshape(rows * groups, -1))
        if not self._whole:
            query = query.index_select(0, self._row_of_place)
        places = len(query)
        if window not in self._masks:
            self._masks[window] = self._mask(window, query.dtype)
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.reshape(places, groups, heads // groups, size),
            keys[:places, :, : self._seen],
            values[:places, :, : self._seen],
            attn_mask=self._masks[window],
            scale=scale,
        )
        attended = attended.reshape(places, 1, heads, -1)
        return attended if self._whole else attended.index_select(0, self._number_index)

    def _targets_of(self, groups: int) -> torch.Tensor:
        """Where each row's keys go, of all rows of the buffer when it is seen as (places × groups × capacity, size)."""
        if groups not in self._targets:
            self._targets[groups] = torch.tensor(
                [
                    (number * groups + group) * self._buffer.capacity + position
                    for number, position in zip(self._numbers, self._positions, strict=True)
                    for group in range(groups)
                ],
                device=self._device,
            )
        return self._targets[groups]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Minus infinity where a place's row does not look, (places, 1, 1, positions)."""
        own = torch.zeros(len(self._row_of_place), 1, dtype=torch.long)
        for number, position in zip(self._numbers, self._positions, strict=True):
            own[number] = position
        bias = _bias(own.to(self._device), torch.arange(self._seen, device=self._device), window, dtype)
        return bias[:, None, None]


def _bias(own: torch.Tensor, others: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """(own, others): minus infinity where a token at `own` (n, 1) does not look at one of `others`."""
    hidden = others > own
    if window is not None:
        hidden |= others <= own - window
    return torch.zeros(hidden.shape, dtype=dtype, device=own.device).masked_fill_(hidden, float("-inf"))
