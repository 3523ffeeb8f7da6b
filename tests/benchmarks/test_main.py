"""Which benchmarks `make bench` runs."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks import __main__ as benchmarks


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of those that were run, which do nothing here."""
    names: list[str] = []
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {name: partial(names.append, name) for name in benchmarks.BENCHMARKS})
    return names


def test_the_short_run_leaves_what_only_the_long_one_measures_as_it_is(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "_FULL", False)
    benchmarks.main([])
    assert ran == [name for name in benchmarks.BENCHMARKS if name not in {"service", "translation_curve"}]
    benchmarks.main(["translation_curve"])
    assert ran[-1] == "translation_curve"


def test_the_long_run_is_all_of_them(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "_FULL", True)
    benchmarks.main([])
    assert ran == list(benchmarks.BENCHMARKS)


def test_a_name_that_is_not_known_is_told_with_those_that_are(ran: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"no benchmark nosuch; there are: streaming, .*training_vocabulary"):
        benchmarks.main(["nosuch"])
    assert ran == []
