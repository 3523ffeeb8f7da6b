"""What both commands do around their work: tell what goes on, and end with one line and a status."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

from rl.errors import EpisodesError


def ended(command: Callable[[], int], *, disk_advice: str, when_stopped: str) -> int:
    """The status of `command`: its own, 1 for a reason that is said, 130 for Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or pipe that has no letters for an answer's script
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        return command()
    except EpisodesError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {error}; {disk_advice}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped; {when_stopped}\n")
        return 130
