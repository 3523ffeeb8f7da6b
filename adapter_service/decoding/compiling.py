"""How functions are compiled: without the interpreter's lock while they run, and kept on disk for the next start."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from adapter_service.decoding.vectors import IS_X86, compiled_for

log = logging.getLogger(__name__)

# What an older version has compiled goes when it has not been used for so long.
_KEPT_SECONDS = 30 * 86_400.0

compiled = numba.njit(nogil=True, error_model="numpy")
# What is called from few places and calls much: each function is optimized anew with all that it calls.
compiled_into_caller = numba.njit(nogil=True, error_model="numpy", inline="always")
# Nothing in another order than it is written in, whoever calls: what is not said is inherited from there.
compiled_in_order = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
# Sums may be added in another order, and so in vectors: always in the same one, for it is compiled once.
compiled_in_vectors = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


# What widening half-precision numbers and multiplying and adding at once are, on x86; without them LLVM calls functions
# that are not there, and the process ends.
_INSTRUCTIONS = {"f16c": "F16C", "fma": "FMA"}


def missing_instructions() -> list[str]:
    """What compiled steps need of an x86 processor and this one has not."""
    if not IS_X86:
        return []
    features = compiled_for()
    return [words for name, words in _INSTRUCTIONS.items() if name not in features]


def named(name: str, *kinds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function that is made for some kinds of numbers a name of its own, before it is compiled.

    numba tells functions apart by their names and by numbers that count from a process's beginning. What was kept from
    another process has that one's numbers, and of two functions that are both called `product` might call the wrong.
    """

    def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__name__ = "_".join((name, *map(str, kinds)))
        function.__qualname__ = function.__name__
        return function

    return renamed


def kept_compiled(function: Callable[..., None]) -> Any:
    """As `compiled`, for what is called from outside: kept in the user's cache, where there is a place for that.

    numba looks whether the file of a function has changed, and not at the files of those that it calls, so the folder
    is named after all of them; it is in NUMBA_CACHE_DIR where that is set.
    """
    try:
        numba.config.CACHE_DIR = str(_folder())
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except (OSError, RuntimeError) as error:  # no home, or none that can be written to
        log.info("what is compiled is not kept for the next start: %s", error, extra={"action": "compiled_not_kept"})
        return compiled(function)


def _folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    own = os.environ.get("NUMBA_CACHE_DIR")
    cache = Path(own or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "adapter-service" / "compiled" / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    return folder
