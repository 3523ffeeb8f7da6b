"""Attention to keys and values in the places of a cache: of a piece of one prompt, or of a token for each of some rows.

Both are `base_models.attention.Attending`: they put the new tokens' keys and values where they belong, then attend.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def __init__(self, buffer: Buffer, rows: list[tuple[int, int, int]], device: torch.device) -> None:
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
