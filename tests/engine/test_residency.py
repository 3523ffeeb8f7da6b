"""The least recently used goes first."""

from __future__ import annotations

import pytest

from adapter_service.engine.residency import Residency


def test_what_is_there_is_not_loaded_again() -> None:
    residency = Residency[str](2)
    assert residency.get("a", lambda: "A") == "A"
    assert residency.get("a", lambda: pytest.fail("loaded again")) == "A"


def test_the_one_not_used_for_longest_goes_first() -> None:
    residency = Residency[str](2)
    for key in ("a", "b", "a", "c"):
        residency.get(key, key.upper)
    assert residency.keys() == ["a", "c"]


def test_what_cannot_be_loaded_pushes_nothing_out() -> None:
    residency = Residency[str](1)
    residency.get("a", lambda: "A")
    with pytest.raises(ZeroDivisionError):
        residency.get("b", lambda: str(1 // 0))
    assert residency.keys() == ["a"]
