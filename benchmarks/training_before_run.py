"""One side of `training_before.py`: `python training_before_run.py FOLDER NAME`, with a checkout on the path.

Written for either checkout, so it takes of the service only what both have. `FOLDER` holds `job.json` and
`rows.json`. Before its first step and after each round it says on stdout how many seconds it has trained, and waits
for a line on stdin; its adapter is in `FOLDER/NAME` before it says so for the last time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import adapter_service


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads((folder / "job.json").read_text())
    seconds = 0.0

    def wait() -> float:
        print(json.dumps({"seconds": seconds, "code": adapter_service.__file__}), file=said, flush=True)
        if not sys.stdin.readline():
            raise SystemExit("whoever gave the turns is gone")
        return time.perf_counter()

    train, save = _prepared(folder, name, job)
    since = wait()

    def after_step(progress: Any) -> None:
        nonlocal seconds, since
        seconds += time.perf_counter() - since
        if progress.step == job["steps"]:
            save()
        since = wait() if progress.step % job["steps_per_round"] == 0 else time.perf_counter()

    train(after_step)


def _prepared(folder: Path, name: str, job: Any) -> Any:
    """What trains, telling of every step, and what writes the adapter."""
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.lora.folder import write_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base
    from adapter_service.rendering import RenderedSample
    from adapter_service.settings import TrainingSettings
    from adapter_service.training import loop

    try:
        from adapter_service.training.state import begin
    except ImportError:  # it was beside the loop then
        begin = loop.begin  # type: ignore[attr-defined]
    base = load_base(job["base"], bases_dir=Path(job["bases_dir"]), device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    rows = [RenderedSample(ids, start) for ids, start in json.loads((folder / "rows.json").read_text())]
    settings = TrainingSettings(**job["training"])
    adapter = Adapter.fresh(LoraConfig(**job["lora"]), layers, seed=settings.seed)

    def train(after_step: Any) -> None:
        loop.train(base, rows, begin(adapter, settings), settings, loop.Hooks(report=after_step))

    def save() -> None:
        (folder / name).mkdir()
        write_folder(adapter, folder / name, base_name=base.name)

    return train, save


if __name__ == "__main__":
    main()
