"""The adapters of rows that decode together: each row's matrices are copied once, when it joins.

Gathering them at every step costs seven times the product (640 → 2048, rank 16, eight rows: 237 µs beside 34), so
what a row needs lies where its row is. Rows of one rank class lie one behind the other and are multiplied at once:

    rows        0 1 2 3 4 | 5 6   | 7 8
    rank class  16        | 64    | none: the base

While all rows of a class have one adapter at its own strength, nothing is copied: the product reads the resident
matrices for every row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from weakref import ref

import torch

from adapter_service.base_models.threads import on_threads
from adapter_service.lora.resident import Factors, ResidentAdapter, add_product


@dataclass(eq=False, slots=True)
class Row:
    """One row's adapter, at `scale` times its strength; None is the base."""

    adapter: ResidentAdapter | None
    scale: float = 1.0


class AdapterRows:
    """The rows that are in the batch, at most `capacity`; `order` says where in a pass's tensors each is."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._classes: dict[int, _RankClass] = {}
        self._plain: list[Row] = []
        self._parts: list[tuple[slice, Mapping[str, Factors]]] | None = None

    @property
    def order(self) -> list[Row]:
        return [*(row for group in self._classes.values() for row in group.rows), *self._plain]

    @property
    def shape(self) -> Hashable:
        """Equal where `add` makes the same operations of so many rows on the same memory, none of which it keeps."""
        return tuple(group.shape for group in self._classes.values() if group.rows)

    def join(self, row: Row) -> None:
        if row.adapter is None or not row.scale:
            self._plain.append(row)
        else:
            self._class_of(row.adapter.rank_class).join(row)
        self._parts = None

    def leave(self, row: Row) -> None:
        """Take a row out; the last of its class takes its place."""
        if row in self._plain:
            self._plain.remove(row)
        else:
            next(group for group in self._classes.values() if row in group.rows).leave(row)
        self._parts = None

    def free_memory(self) -> None:
        """Give up the room of rank classes that have no rows."""
        self._classes = {rank: group for rank, group in self._classes.items() if group.rows}

    def _class_of(self, rank: int) -> _RankClass:
        """With its room as it was left: fresh memory costs a row that joins as much again as the copy."""
        if rank not in self._classes:
            self.free_memory()
            self._classes[rank] = _RankClass(self._capacity)
        return self._classes[rank]

    def add(self, path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`y` (rows, 1, out) of the layer at `path` and the products of its inputs `x` (rows, 1, in), in `y`'s memory.

        Rows of the base are not touched.
        """
        if self._parts is None:
            self._parts = list(self._divided())
        with on_threads(1):
            for rows, factors in self._parts:
                if (pair := factors.get(path)) is not None:
                    inner = torch.bmm(x[rows].to(pair.a.dtype), pair.a.mT)  # (rows of the class, 1, r)
                    add_product(y[rows], inner, pair.b)
        return y

    def _divided(self) -> Iterator[tuple[slice, Mapping[str, Factors]]]:
        start = 0
        for group in self._classes.values():
            if not group.rows:
                continue
            end = start + len(group.rows)
            yield slice(start, end), group.factors()
            start = end


class _RankClass:
    """Rows whose adapters have one rank class, and room for the matrices of `capacity` of them.

    The room is zeros that nobody has written to yet, which take no memory.
    """

    def __init__(self, capacity: int) -> None:
        self.rows: list[Row] = []
        self._capacity = capacity
        self._room: dict[str, Factors] = {}
        self._packed = 0  # of the rows, from the first on
        self._views: dict[int, Mapping[str, Factors]] = {}

    @property
    def shape(self) -> Hashable:
        """With what is read: the one adapter's matrices, or the room as it is until there is some for more layers."""
        read = (ref(_adapter_of(self.rows[0])), 0) if self._is_uniform() else (ref(self), len(self._room))
        return *read, len(self.rows)

    def join(self, row: Row) -> None:
        self.rows.append(row)
        if not self._is_uniform():
            self._pack()

    def leave(self, row: Row) -> None:
        place, last = self.rows.index(row), len(self.rows) - 1
        if place < self._packed and place != last:
            self._copy(place, self.rows[last])
        self.rows[place] = self.rows[last]
        self.rows.pop()
        self._packed = min(self._packed, last)

    def factors(self) -> Mapping[str, Factors]:
        """Matrices (rows, r, in) and (rows, r, out) of every layer that some row's adapter changes."""
        count = len(self.rows)
        if self._is_uniform():
            return _adapter_of(self.rows[0]).repeated(count)
        self._pack()
        if count not in self._views:
            self._views[count] = {path: Factors(f.a[:count], f.b[:count]) for path, f in self._room.items()}
        return self._views[count]

    def _is_uniform(self) -> bool:
        first = self.rows[0]
        return all(row.adapter is first.adapter and row.scale == 1.0 for row in self.rows)

    def _pack(self) -> None:
        """Copy what is not yet copied."""
        while self._packed < len(self.rows):
            self._copy(self._packed, self.rows[self._packed])
            self._packed += 1

    def _copy(self, place: int, row: Row) -> None:
        adapter = _adapter_of(row)
        self._make_room(adapter)
        targets, sources = [], []
        for path, factors in adapter.factors.items():
            room = self._room[path]
            targets += [room.a[place], room.b[place]]
            sources += [factors.a, factors.b]
        torch._foreach_copy_(targets, sources)
        if row.scale != 1.0:
            torch._foreach_mul_(targets[1::2], row.scale)
        # The row that was here before may have changed layers that this one does not. Both matrices go: what one of
        # them makes infinite, no zero of the other's takes away.
        others = [room for path, room in self._room.items() if path not in adapter.factors]
        if others:
            torch._foreach_zero_([matrix[place] for room in others for matrix in (room.a, room.b)])

    def _make_room(self, adapter: ResidentAdapter) -> None:
        for path, f in adapter.factors.items():
            if path not in self._room:
                a = f.a.new_zeros(self._capacity, *f.a.shape)
                self._room[path] = Factors(a, f.b.new_zeros(self._capacity, *f.b.shape))
                self._views = {}


def _adapter_of(row: Row) -> ResidentAdapter:
    assert row.adapter is not None  # noqa: S101 - only rows with one are in a rank class
    return row.adapter
