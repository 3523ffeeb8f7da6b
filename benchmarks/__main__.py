"""`make bench`: run every benchmark; `BENCH=full` runs the long versions."""

from __future__ import annotations

import os

from benchmarks import episodes, service, streaming, translation_curve


def main() -> None:
    streaming.run()
    episodes.run()
    service.run(full=os.environ.get("BENCH") == "full")
    translation_curve.run(full=os.environ.get("BENCH") == "full")


if __name__ == "__main__":
    main()
