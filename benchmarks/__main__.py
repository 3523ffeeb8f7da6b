"""`make bench`: run every benchmark; `BENCH=full` runs the long versions."""

from __future__ import annotations

import os

from benchmarks import streaming, translation_curve


def main() -> None:
    streaming.run()
    translation_curve.run(full=os.environ.get("BENCH") == "full")


if __name__ == "__main__":
    main()
