"""Which process runs the jobs of a state folder: one at a time, told by a lock that ends with the process.

A second one, started by mistake, would take the running job for one that a dead process left; and a web
server starts its application before it finds its port taken.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from adapter_service.errors import StorageError

logger = logging.getLogger(__name__)


class Ownership:
    """Of the jobs in `state_dir`, from `take` to `release` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._descriptor: int | None = None

    def take(self) -> None:
        """Own the jobs. Where the lock itself cannot be had (a full disk), go on without: jobs wait for the disk.

        Raises:
            StorageError: another process owns them.
        """
        try:
            self._descriptor = os.open(self._state_dir / "service.lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise StorageError(
                f"another process runs the jobs of the state folder {self._state_dir}; stop that one, or give this "
                "one a folder of its own (ADAPTER_STATE_DIR)"
            ) from error
        except OSError:
            self.release()
            logger.warning("no lock on %s: do not start a second service there", self._state_dir, exc_info=True)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
