"""Keys and values of the sequences under way: a place for each, in buffers of a few capacities.

A sequence's place is reserved for its prompt and all that may follow, so that nothing is ever moved or given up in
the middle. With some sixteen sequences that wastes little, and needs no tables of blocks. Places of one capacity lie
in one tensor for each layer, so that all their rows attend in one product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

# Room for so many tokens, or for a power of two times that.
_LEAST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class Place:
    """The `number`-th place of those for `capacity` tokens."""

    capacity: int
    number: int


# Keys and values (key-value heads, tokens, size) of each layer.
Block = list[tuple[torch.Tensor, torch.Tensor]]


class KvCache:
    """Places for sequences; what attends (`cached_attention`) fills them."""

    def __init__(self) -> None:
        self._buffers: dict[int, Buffer] = {}

    def take(self, tokens: int) -> Place:
        """Reserve a place for so many tokens."""
        capacity = max(_LEAST_CAPACITY, 1 << (tokens - 1).bit_length())
        return Place(capacity, self._buffers.setdefault(capacity, Buffer(capacity)).take())

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

    def buffer(self, capacity: int) -> Buffer:
        return self._buffers[capacity]

    @property
    def taken_tokens(self) -> int:
        """Tokens that there is room for in the places that are taken; from any thread."""
        return sum(buffer.capacity * len(buffer.taken) for buffer in list(self._buffers.values()))

    @property
    def tokens(self) -> int:
        """Tokens that there is room for in all places, taken or not; from any thread."""
        return sum(buffer.capacity * buffer.places for buffer in list(self._buffers.values()))


@dataclass(eq=False)
class Buffer:
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

    def make_layers(self, count: int, heads: torch.Tensor) -> None:
        """Have `count` layers, made for heads like these."""
        for number in range(len(self.layers), count):
            self.layer(number, heads, heads)

    def _zeros(self, heads: torch.Tensor) -> torch.Tensor:
        return heads.new_zeros(self.places, heads.shape[-3], self.capacity, heads.shape[-1])


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    larger = tensor.new_zeros(2 * len(tensor), *tensor.shape[1:])
    larger[: len(tensor)] = tensor
    return larger
