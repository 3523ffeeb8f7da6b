"""An adapter as it is served: matrices ready for products of rows, and none of what training needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from adapter_service.base_models.threads import on_threads
from adapter_service.lora.adapter import Adapter, Weights

# Ranks are rounded up to the next of these, so that rows of nearly one rank are multiplied together.
_LEAST_CLASS = 8


@dataclass(frozen=True, slots=True)
class Factors:
    """A (r, in) and B (r, out) of one layer, B times the adapter's scale; r is its rank class. Of rows: (rows, …).

    B lies the other way round than in files: so its product takes half the time. For A there is no difference, and
    it is not copied where it is as it should be.
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, eq=False)
class ResidentAdapter:
    """All factors by layer path; `key` is the version's."""

    key: str
    rank_class: int
    factors: Mapping[str, Factors]
    _repeated: dict[int, Mapping[str, Factors]] = field(default_factory=dict)

    @classmethod
    def of(cls, key: str, adapter: Adapter, dtype: torch.dtype, device: torch.device) -> ResidentAdapter:
        """As `of_weights`, in memory of its own, of an adapter that may go on training."""
        return cls.of_weights(key, adapter.frozen_copy(dtype).pairs, dtype, device)

    @classmethod
    @torch.no_grad()
    def of_weights(
        cls, key: str, pairs: Mapping[str, Weights], dtype: torch.dtype, device: torch.device
    ) -> ResidentAdapter:
        """Of weights by layer path, in `dtype` on `device`, ranks filled up with zeros; A may be the one given."""
        largest = max(pair.a.shape[0] for pair in pairs.values())
        rank_class = max(_LEAST_CLASS, 1 << (largest - 1).bit_length())
        factors = {}
        for path, pair in pairs.items():
            rank, (outputs, inputs) = pair.a.shape[0], (pair.b.shape[0], pair.a.shape[1])
            a = pair.a.detach().to(device, dtype).contiguous()
            if rank < rank_class:
                a = torch.cat([a, a.new_zeros(rank_class - rank, inputs)])
            b = a.new_zeros(rank_class, outputs) if rank < rank_class else a.new_empty(rank_class, outputs)
            torch.mul(pair.b.detach().T, pair.scale, out=b[:rank])
            factors[path] = Factors(a, b)
        return cls(key, rank_class, factors)

    def repeated(self, rows: int) -> Mapping[str, Factors]:
        """The factors for each of `rows` rows, in the memory of the one."""
        if rows not in self._repeated:
            self._repeated[rows] = {
                path: Factors(f.a.expand(rows, -1, -1), f.b.expand(rows, -1, -1)) for path, f in self.factors.items()
            }
        return self._repeated[rows]

    @cached_property
    def size_bytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices())

    def matrices(self) -> Iterator[torch.Tensor]:
        for factors in self.factors.values():
            yield factors.a
            yield factors.b


@dataclass(frozen=True, slots=True)
class OneAdapter:
    """A pass whose rows all have one adapter, at `scale` times its strength: a prompt's."""

    adapter: ResidentAdapter
    scale: float = 1.0

    def add(self, path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`y` (..., out) of the layer at `path` and the product of its input `x` (..., in), in `y`'s memory."""
        factors = self.adapter.factors.get(path)
        if factors is None:
            return y
        with on_threads(1):
            inner = x.to(factors.a.dtype) @ factors.a.T  # (..., r)
            if self.scale != 1.0:
                inner = inner * self.scale
            return add_product(y, inner, factors.b)


def add_product(y: torch.Tensor, inner: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`y` (rows, n, out) += `inner` (rows, n, r) × `b`, (r, out) or (rows, r, out), in `b`'s type."""
    if y.dtype != b.dtype:
        return y.add_(inner @ b)
    if b.dim() == 2:
        y.view(-1, y.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), b)
        return y
    return y.baddbmm_(inner, b)
