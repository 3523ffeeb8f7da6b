"""One process at a time runs the jobs of a state folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from adapter_service.errors import StorageError
from adapter_service.jobs.ownership import Ownership
from tests.conftest import ROOT

OWNER = """
    import sys
    from pathlib import Path
    from adapter_service.jobs.ownership import Ownership

    owner = Ownership(Path(sys.argv[1]))
    owner.take()
    print("taken", flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_is_told_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    first, second = Ownership(tmp_path), Ownership(tmp_path)
    first.take()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"another process runs the jobs .*; stop that one, or give this one"):
            second.take()
    first.release()
    second.take()
    second.release()
    second.release()


def test_a_killed_owner_owns_nothing_any_more(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "taken\n"
        heir = Ownership(tmp_path)
        with pytest.raises(StorageError):
            heir.take()
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    heir.take()
    heir.release()


def test_a_folder_that_takes_no_lock_is_used_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Ownership(tmp_path / "gone").take()
    assert "do not start a second service there" in caplog.text
