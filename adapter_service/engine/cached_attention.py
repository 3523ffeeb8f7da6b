"""Attention to keys and values in the places of a cache: of a piece of one prompt, or of a token for each of some rows.

Both are `base_models.attention.Attending`: they put the new tokens' keys and values where they belong, then attend.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from weakref import ref

import torch

from adapter_service.engine.kv_cache import Buffer, KvCache, Place

# Rows attend to a whole number of these: the rest is masked.
_STRIDE = 64


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
        if window not in self._masks:
            self._masks[window] = self._mask(window, query.dtype, query.device, query.shape[1] // key.shape[1])
        return _attended(query, keys[:, :, : self._end], values[:, :, : self._end], self._masks[window], scale)

    def _mask(self, window: int | None, dtype: torch.dtype, device: torch.device, repeats: int) -> torch.Tensor:
        """Minus infinity where a token does not look, (heads a group × tokens, positions)."""
        own = torch.arange(self._start, self._end, device=device)[:, None]
        others = torch.arange(self._end, device=device)
        return _bias(own, others, window, dtype).repeat(repeats, 1)


class StepAttention:
    """Attention of one new token for each of some rows, which are at `places` and `positions`.

    What differs from step to step is in `tensors`, and all that is computed of them is computed by `attend`: two with
    one `shape` differ in nothing else, so that a recorded one gives what another would, once it has its tensors.
    """

    def __init__(
        self,
        cache: KvCache,
        places: Sequence[Place],
        positions: Sequence[int],
        device: torch.device,
        *,
        few_shapes: bool = False,
    ) -> None:
        """With `few_shapes`, masked positions fill the seen ones up to a power of two instead of to the next stride."""
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
                few_shapes=few_shapes,
            )
            for capacity in capacities
        ]
        together = [row for part in self._parts for row in part.rows]
        self._back = None
        if together != list(range(len(places))):
            back = sorted(range(len(together)), key=together.__getitem__)
            self._back = torch.tensor(back, device=device)

    @property
    def shape(self) -> Hashable:
        """Equal for two that make the same operations, on the same memory but for their `tensors`."""
        return tuple(part.shape for part in self._parts), self._back is None

    @property
    def tensors(self) -> list[torch.Tensor]:
        own = [tensor for part in self._parts for tensor in part.tensors]
        return own if self._back is None else [*own, self._back]

    def forget(self) -> None:
        """What was computed of `tensors`: where that was to be recorded and failed, nothing was computed."""
        for part in self._parts:
            part.forget()

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

    def __init__(
        self, buffer: Buffer, rows: list[tuple[int, int, int]], device: torch.device, *, few_shapes: bool
    ) -> None:
        self.rows, numbers, positions = (list(column) for column in zip(*rows, strict=True))
        self._buffer = buffer
        self._whole = numbers == list(range(len(rows)))
        # Places that nobody has taken compute what row 0 does, and nobody looks at it.
        of_place = dict(zip(numbers, range(len(rows)), strict=True))
        row_of_place = [of_place.get(number, 0) for number in range(max(numbers) + 1)]
        columns = (self.rows, numbers, positions, row_of_place)
        together = torch.tensor([number for column in columns for number in column], device=device)
        self.tensors = torch.split(together, [len(column) for column in columns])
        self._row_index, self._numbers, self._positions, self._row_of_place = self.tensors
        seen = max(positions) + 1
        self._seen = min(buffer.capacity, _power_of_two(seen)) if few_shapes else -(-seen // _STRIDE) * _STRIDE
        self.forget()

    def forget(self) -> None:
        self._masks: dict[int | None, torch.Tensor] = {}
        self._targets: dict[int, torch.Tensor] = {}

    @property
    def shape(self) -> Hashable:
        return ref(self._buffer), self._buffer.places, len(self.rows), len(self._row_of_place), self._whole, self._seen

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
        rows, groups = key.shape[:2]
        targets = self._targets_of(groups)
        keys.view(-1, keys.shape[-1]).index_copy_(0, targets, key.reshape(rows * groups, -1))
        values.view(-1, values.shape[-1]).index_copy_(0, targets, value.reshape(rows * groups, -1))
        if not self._whole:
            query = query.index_select(0, self._row_of_place)
        places = len(query)
        if window not in self._masks:
            self._masks[window] = self._mask(window, query.dtype)
        seen = keys[:places, :, : self._seen], values[:places, :, : self._seen]
        attended = _attended(query, *seen, self._masks[window], scale)
        return attended if self._whole else attended.index_select(0, self._numbers)

    def _targets_of(self, groups: int) -> torch.Tensor:
        """Where each row's keys go, of all rows of the buffer when it is seen as (places × groups × capacity, size)."""
        if groups not in self._targets:
            of_group = self._numbers[:, None] * groups + torch.arange(groups, device=self._numbers.device)
            self._targets[groups] = (of_group * self._buffer.capacity + self._positions[:, None]).flatten()
        return self._targets[groups]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Minus infinity where a place's row does not look, (places, 1, 1, positions)."""
        own = self._positions.index_select(0, self._row_of_place)[:, None]
        return _bias(own, torch.arange(self._seen, device=own.device), window, dtype)[:, None, None]


def _power_of_two(least: int) -> int:
    """Strides, one or a power of two of them."""
    return max(_STRIDE, 1 << (least - 1).bit_length())


def _attended(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Queries (rows, heads, tokens, size) over keys and values (rows, groups, positions, size), as `mask` adds to them.

    The heads that share keys and values are rows of one product. Gives (rows, tokens, heads, size).
    """
    (rows, heads, tokens, size), groups = query.shape, keys.shape[1]
    grouped = query.reshape(rows, groups, heads // groups * tokens, size)
    attended = torch.nn.functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return attended.reshape(rows, heads, tokens, -1).transpose(1, 2)


def _bias(own: torch.Tensor, others: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """(own, others): minus infinity where a token at `own` (n, 1) does not look at one of `others`."""
    hidden = others > own
    if window is not None:
        hidden |= others <= own - window
    return torch.zeros(hidden.shape, dtype=dtype, device=own.device).masked_fill_(hidden, float("-inf"))
