"""A node that dies at whichever moment uses a whole adapter, the one before or the new one, and goes on."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from adapter_service.node.active import NodeFolder
from adapter_service.node.notice import ReadyNotice
from adapter_service.node.taking import Outcome, Taker
from tests.node.zips import Zip, make_zip, notice_of

NOWHERE = "http://127.0.0.1:1/adapter.zip"
_DIED = 9
# What a process does to a disk, as Python's audit events call it.
_TOUCHING = ("open", "os.", "shutil.", "tempfile.")


def taker(folder: Path) -> Taker:
    return Taker(NodeFolder(folder), lambda *_, **__: None)


def fetched(folder: Path, made: Zip) -> None:
    """What `download` leaves: everything from here on needs no network."""
    part = NodeFolder(folder).part(made.sha256)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(made.content)


def died_at(moment: int, folder: Path, notice: ReadyNotice) -> bool:
    """Take the notice in a process that ends at its `moment`th touch of the disk; False where it came through."""
    process = os.fork()
    if process == 0:
        touches = count()

        def die_in_time(event: str, _: object) -> None:
            if event.startswith(_TOUCHING) and next(touches) >= moment:
                os._exit(_DIED)

        sys.addaudithook(die_in_time)
        try:
            taker(folder).take(notice)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in {0, _DIED}
    return code == _DIED


def test_whenever_a_node_dies_it_uses_a_whole_adapter_and_then_the_new_one(tmp_path: Path) -> None:
    before, made = make_zip(1), make_zip(2)
    notice = notice_of(made, NOWHERE, number=2, minutes=1, hours=1_000_000)
    moments = 0
    for moment in count():
        folder = tmp_path / str(moment)
        fetched(folder, before)
        taker(folder).take(notice_of(before, NOWHERE, hours=1_000_000))
        fetched(folder, made)
        came_through = not died_at(moment, folder, notice)
        active = NodeFolder(folder).active()
        assert active is not None
        assert active.sha256 in {before.sha256, made.sha256}
        assert len(list(NodeFolder(folder).files(active.sha256).iterdir())) == 3
        outcome = taker(folder).take(notice)
        assert outcome is (Outcome.DUPLICATE if active.sha256 == made.sha256 else Outcome.ACTIVATED)
        now = NodeFolder(folder).active()
        assert now is not None
        assert now.sha256 == made.sha256
        moments += 1
        if came_through:
            break
    assert moments > 20
