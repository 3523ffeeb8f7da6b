"""A base's decode steps, compiled: what the engine hands rows to."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch

from adapter_service.decoding.families import Architecture, NotComputedError
from adapter_service.decoding.step import LINEARS, NORMS, Base, Floats, Integers, Rows, decode_step
from adapter_service.decoding.weights import KINDS, Matrix, Packing, matrix_of
from adapter_service.lora.resident import ResidentAdapter

_LEAST_POSITIONS = 1024


class Decoder:
    """Steps of one base, of whose weights it has tables, and copies where they are packed.

    All of it on one thread. What it was made of has to stay where it is in memory.
    """

    def __init__(self, architecture: Architecture, packing: Packing) -> None:
        """
        Raises:
            NotComputedError: a layer is of a kind that a step cannot read.
        """
        self._architecture = architecture
        self.packing = packing
        self._places = {
            path: (number, which)
            for number, layer in enumerate(architecture.layers)
            for which, path in enumerate(layer.paths)
        }
        self._matrices = [_matrix(linear, packing) for layer in architecture.layers for linear in layer.linears]
        self._head = _matrix(architecture.head, packing)
        self._embedding = Matrix(architecture.embedding)
        self._rotations: dict[str | None, tuple[torch.Tensor, torch.Tensor]] = {}
        self._adapters: WeakKeyDictionary[ResidentAdapter, Integers] = WeakKeyDictionary()
        self._none = np.zeros((len(architecture.layers), LINEARS, 3), np.int64)
        self._base = self._tables()
        self._turn_up_to(_LEAST_POSITIONS)
        self._room: list[Floats] = []

    @property
    def weight_kinds(self) -> list[str]:
        """Of the layers, then of the head, in torch's words."""
        kinds = [str(matrix.weights.dtype).removeprefix("torch.") for matrix in (*self._matrices, self._head)]
        return list(dict.fromkeys(kinds))

    @property
    def bytes_of_a_step(self) -> int:
        """What is read of the weights for each step."""
        return sum(matrix.weights.nbytes for matrix in (*self._matrices, self._head))

    def adapter_table(self, adapter: ResidentAdapter | None) -> Integers:
        """(layers, LINEARS, 3) of `step.Rows.adapters`, for as long as the adapter is resident."""
        if adapter is None:
            return self._none
        if adapter not in self._adapters:
            table = self._none.copy()
            for path, factors in adapter.factors.items():
                table[self._places[path]] = factors.a.data_ptr(), factors.b.data_ptr(), adapter.rank_class
            self._adapters[adapter] = table
        return self._adapters[adapter]

    def step(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        caches: Integers,
        strides: Sequence[int],
        adapters: Integers,
        strengths: Sequence[float],
    ) -> torch.Tensor:
        """Logits (rows, vocabulary), float32, of what follows each row's token; the rest is as in `step.Rows`."""
        rows = len(tokens)
        last = max(positions)
        self._turn_up_to(last + 1)
        logits = torch.empty(rows, int(self._base.sizes[5]), dtype=torch.float32)
        brought = Rows(
            np.array(tokens, np.int64),
            np.array(positions, np.int64),
            caches,
            np.array(strides, np.int64),
            adapters,
            np.array(strengths, np.float32),
        )
        decode_step(self._base, brought, self._room_for(rows, last + 1, adapters, logits))
        return logits

    def _room_for(self, rows: int, positions: int, adapters: Integers, logits: torch.Tensor) -> Integers:
        """Addresses, in the order of `step.HIDDEN` to `step.LOGITS`."""
        hidden, heads, groups, size, between = (int(number) for number in self._base.sizes[:5])
        rank = int(adapters[..., 2].max(initial=1))
        widths = (hidden, hidden, heads * size, groups * size, groups * size, heads * size, between, between)
        wanted = (*(rows * width for width in widths), heads // groups * positions, rank)
        for place, count in enumerate(wanted):
            if place == len(self._room):
                self._room.append(np.empty(count, np.float32))
            elif len(self._room[place]) < count:
                self._room[place] = np.empty(2 * count, np.float32)
        return np.array([*(room.ctypes.data for room in self._room), logits.data_ptr()], np.int64)

    def _turn_up_to(self, positions: int) -> None:
        """Have rotary tables for so many positions."""
        known = next(iter(self._rotations.values()), None)
        if known is not None and len(known[0]) >= positions:
            return
        count = 1 << max(_LEAST_POSITIONS, positions).bit_length()
        kinds = {layer.rotation for layer in self._architecture.layers}
        self._rotations = {kind: self._architecture.rotation(kind, count) for kind in kinds}
        for number, layer in enumerate(self._architecture.layers):
            self._base.rotations[number] = [table.data_ptr() for table in self._rotations[layer.rotation]]

    def _tables(self) -> Base:
        known = self._architecture
        layers = len(known.layers)
        norms = np.zeros((layers, NORMS), np.int64)
        for number, layer in enumerate(known.layers):
            for place, norm in layer.norms.items():
                norms[number, place] = norm.scale.data_ptr()
        hidden, between = known.embedding.shape[1], self._matrices[4].weights.shape[0]
        vocabulary, cache = self._head.weights.shape[0], KINDS[known.embedding.dtype]
        sizes = [hidden, known.heads, known.groups, known.head_size, between, vocabulary, known.activation, cache]
        return Base(
            sizes=np.array(sizes, np.int64),
            numbers=np.array([known.final_norm.epsilon, known.embedding_factor, known.score_scale], np.float32),
            embedding=np.array(self._embedding.entry, np.int64),
            linears=np.array([matrix.entry for matrix in self._matrices], np.int64).reshape(layers, LINEARS, 4),
            norms=norms,
            windows=np.array([layer.window for layer in known.layers], np.int64),
            rotations=np.zeros((layers, 2), np.int64),
            end=np.array([known.final_norm.scale.data_ptr(), *self._head.entry], np.int64),
        )


def _matrix(linear: torch.nn.Module, packing: Packing) -> Matrix:
    if (matrix := matrix_of(linear, packing)) is None:
        raise NotComputedError(f"a step cannot read the weights of {type(linear).__name__}")
    return matrix
