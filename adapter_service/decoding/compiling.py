"""How functions are compiled: without the interpreter's lock while they run, and kept on disk for the next start."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numba

compiled = numba.njit(nogil=True, error_model="numpy")
# Nothing in another order than it is written in, whoever calls: what is not said is inherited from there.
compiled_in_order = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
# Sums may be added in another order, and so in vectors: always in the same one, for it is compiled once.
compiled_in_vectors = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def kept_compiled() -> Any:
    """As `compiled`, for what is called from outside: kept in the user's cache.

    numba looks whether the file of a function has changed, and not at the files of those that it calls, so the folder
    is named after all of them. A cache of the user's own (NUMBA_CACHE_DIR) is left as it is.
    """
    if "NUMBA_CACHE_DIR" not in os.environ:
        digest = hashlib.sha256(numba.__version__.encode())
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        numba.config.CACHE_DIR = str(home / "adapter-service" / "compiled" / digest.hexdigest()[:16])
    return numba.njit(nogil=True, error_model="numpy", cache=True)
