"""`make bench`: run every benchmark, or `python -m benchmarks NAME …` some; `BENCH=full` runs the long versions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from benchmarks import (
    episodes,
    service,
    streaming,
    training,
    training_int8,
    training_prefix,
    training_start,
    translation_curve,
)

_FULL = os.environ.get("BENCH") == "full"
BENCHMARKS: dict[str, Callable[[], None]] = {
    "streaming": streaming.run,
    "episodes": episodes.run,
    "service": lambda: service.run(full=_FULL),
    "training": lambda: training.run(full=_FULL),
    "training_start": training_start.run,
    "training_int8": training_int8.run,
    "training_prefix": training_prefix.run,
    "translation_curve": lambda: translation_curve.run(full=_FULL),
}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
