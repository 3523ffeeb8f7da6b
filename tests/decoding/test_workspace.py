"""The room that steps compute in."""

from __future__ import annotations

from adapter_service.decoding.decoder import Workspace

CACHE_LINE = 64


def test_rooms_begin_where_cache_lines_do_however_they_grow() -> None:
    workspace = Workspace()
    for counts in ((3, 100, 7), (900, 5, 7), (1, 1, 1, 1)):
        found = workspace.addresses(counts)
        assert len(found) == len({*found}) == max(3, len(counts))
        assert [address % CACHE_LINE for address in found] == [0] * len(found)


def test_rooms_stay_where_they_are_while_they_are_large_enough() -> None:
    workspace = Workspace()
    first = workspace.addresses((10, 20))
    assert workspace.addresses((5, 20)) == first
