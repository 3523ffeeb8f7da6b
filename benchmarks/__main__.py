"""`make bench`: run every benchmark, or `python -m benchmarks NAME …` some; `BENCH=full` runs the long versions.

Without it all are done in under half an hour on two cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from benchmarks import (
    commands,
    commands_load,
    engine,
    episodes,
    kernels,
    service,
    streaming,
    training,
    training_before,
    training_int8,
    training_prefix,
    training_start,
    training_vocabulary,
    translation_curve,
)

_SIZE = os.environ.get("BENCH", "")
_FULL = _SIZE == "full"
BENCHMARKS: dict[str, Callable[[], None]] = {
    "streaming": streaming.run,
    "episodes": lambda: episodes.run(full=_FULL),
    "commands": commands.run,
    "commands_load": commands_load.run,
    "engine": lambda: engine.run(size=_SIZE if _SIZE in {"quick", "full"} else "short"),
    "kernels": lambda: kernels.run(size=_SIZE if _SIZE in {"quick", "full"} else "short"),
    "service": lambda: service.run(full=_FULL),
    "training": lambda: training.run(full=_FULL),
    "training_before": lambda: training_before.run(full=_FULL),
    "training_start": lambda: training_start.run(full=_FULL),
    "training_int8": training_int8.run,
    "training_prefix": lambda: training_prefix.run(full=_FULL),
    "training_vocabulary": lambda: training_vocabulary.run(full=_FULL),
    "translation_curve": lambda: translation_curve.run(full=_FULL),
}
# Their short versions show only that they work, and would overwrite the README's figures of the long ones.
_FULL_ONLY = frozenset({"service", "translation_curve"})


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    for name in names or [name for name in BENCHMARKS if _FULL or name not in _FULL_ONLY]:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
