"""Rows of different adapters: each has the product of its own, wherever it lies and whoever lay there before."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.lora.resident import Factors, OneAdapter, ResidentAdapter
from adapter_service.lora.rows import AdapterRows, Row

WIDTHS = {"q": (6, 4), "up": (6, 9)}
CAPACITY = 5


def made(key: str, rank_class: int, *paths: str, fill: float | None = None) -> ResidentAdapter:
    generator = torch.Generator().manual_seed(hash(key) % 1000)
    factors = {}
    for path in paths:
        inputs, outputs = WIDTHS[path]
        a = torch.randn(rank_class, inputs, generator=generator)
        b = torch.randn(rank_class, outputs, generator=generator)
        factors[path] = Factors(a, b) if fill is None else Factors(a.fill_(fill), b.fill_(fill))
    return ResidentAdapter(key, rank_class, factors)


ADAPTERS: list[ResidentAdapter | None] = [
    None,
    made("all", 8, "q", "up"),
    made("one layer", 8, "q"),
    made("other layer", 8, "up"),
    made("wide", 16, "q", "up"),
]


def products(rows: AdapterRows, path: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, outputs without and with what the rows add; (rows, ...)."""
    inputs, outputs = WIDTHS[path]
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(len(rows.order), 1, inputs, generator=generator)
    y = torch.randn(len(rows.order), 1, outputs, generator=generator)
    return x, y, rows.add(path, x, y.clone())


def assert_each_has_its_own(rows: AdapterRows) -> None:
    for path in WIDTHS:
        x, before, found = products(rows, path)
        for place, row in enumerate(rows.order):
            wanted = before[place].clone()
            if row.adapter is not None and row.scale:
                OneAdapter(row.adapter, row.scale).add(path, x[place], wanted)
                torch.testing.assert_close(found[place], wanted)
            else:
                assert torch.equal(found[place], wanted)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_come_and_go_have_their_own_products(data: st.DataObject) -> None:
    rows, present = AdapterRows(CAPACITY), list[Row]()
    for _ in range(data.draw(st.integers(1, 14), label="moves")):
        if present and (len(present) == CAPACITY or data.draw(st.booleans(), label="leaves")):
            rows.leave(present.pop(data.draw(st.integers(0, len(present) - 1), label="who")))
        else:
            adapter = ADAPTERS[data.draw(st.integers(0, len(ADAPTERS) - 1), label="adapter")]
            row = Row(adapter, data.draw(st.sampled_from([1.0, 1.0, 0.5, 0.0, -1.0]), label="scale"))
            rows.join(row)
            present.append(row)
        assert set(rows.order) == set(present)
        if present:
            assert_each_has_its_own(rows)


def test_rows_of_one_adapter_read_the_one_copy() -> None:
    rows, adapter = AdapterRows(CAPACITY), made("all", 8, "q", "up")
    for _ in range(3):
        rows.join(Row(adapter))
    (group,) = rows._classes.values()
    assert group.factors()["q"].a.data_ptr() == adapter.factors["q"].a.data_ptr()
    assert not group._room
    assert_each_has_its_own(rows)


def test_what_an_overflowing_adapter_leaves_behind_harms_nobody() -> None:
    """The next row in its place does not change the layer that it changed, and infinity times zero is no number."""
    for fill in (1e38, float("inf")):
        rows = AdapterRows(CAPACITY)
        first, bad = Row(made("all", 8, "q", "up")), Row(made("bad", 8, "q", "up", fill=fill))
        rows.join(first)
        rows.join(bad)
        rows.leave(bad)
        rows.join(Row(made("other layer", 8, "up")))
        assert_each_has_its_own(rows)


def test_a_row_without_strength_is_the_base_to_the_bit_whatever_its_adapter_holds() -> None:
    rows = AdapterRows(CAPACITY)
    rows.join(Row(made("bad", 8, "q", fill=float("inf")), 0.0))
    _, before, found = products(rows, "q")
    assert torch.equal(found, before)
