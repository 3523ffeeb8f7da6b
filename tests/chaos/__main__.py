"""`make chaos`: a real server killed at random moments, CHAOS_KILLS times (200), while jobs keep coming.

After every kill the state folder is looked at as it lies, and the server started again. At the end every
job that was accepted has ended once, with the bytes of an undisturbed run. CHAOS_SEED repeats a run's
choices; the moments that they meet are the machine's.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from adapter_service.cli.progress import run_progress
from tests.chaos.killing import Report, kill_at_random


def main() -> int:
    kills = int(os.environ.get("CHAOS_KILLS", "200"))
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    disable_progress_bar()  # transformers' own, for a base of 400 kB
    console = Console()
    console.print(f"CHAOS_KILLS={kills} CHAOS_SEED={seed}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, run_progress(console) as progress:

        def tell(kill: int, jobs: int) -> None:
            progress.show("killing", f"kill {kill} of {kills}, {jobs} jobs", completed=kill, total=kills)

        progress.show("starting")
        report = kill_at_random(Path(folder), kills=kills, seed=seed, tell=tell)
    console.print(_table(report, kills))
    for fault in report.faults:
        console.print(f"FAULT {fault}", markup=False, soft_wrap=True)
    return 1 if report.faults else 0


def _table(report: Report, kills: int) -> Table:
    table = Table(title=f"{kills} kills in {report.seconds:.0f} s", show_header=False)
    table.add_row("met while", _counted(report.met.most_common()))
    table.add_row("jobs", _counted(report.ended.most_common()))
    table.add_row("attempts", ", ".join(f"{jobs} jobs in {n}" for n, jobs in sorted(report.attempts.items())))
    table.add_row("asked again", f"{report.asked_again} requests whose answer never came")
    table.add_row("steps again", f"{report.steps_again} since the last checkpoints")
    table.add_row("faults", str(len(report.faults) or "none: nothing lost, done twice or half-written"))
    return table


def _counted(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts)


if __name__ == "__main__":
    sys.exit(main())
