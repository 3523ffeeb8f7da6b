"""The training of `make run` beside what it was before it was made fast: another checkout of this repository.

Both train on the samples that `make run` would, from the same adapter and by the same recipe and schedule, some
steps at a time and in turns. A step does the same work in both, and that they end at the same holdout loss is
measured too; so the ratio of their times is that of the times to equal loss.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.cli.quickstart import RECIPE
from adapter_service.measuring.holdout import split_source
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.rendering import Renderer
from adapter_service.settings import load_settings
from adapter_service.training.batching import sequences_per_step
from benchmarks.training import LOSS_RATIO, Child
from benchmarks.training_rows import recipe_rows, write_rows

RESULTS = Path("benchmarks/results/training_before.json")
# The last commit before the trainer was made fast.
BEFORE = "b067a5d817c41af818a16719418c0072a895aa33"
NOW, THEN = "now", "before"
TIME_RATIO = 0.6
QUICK = {"rounds": 4, "steps_per_round": 4}
FULL = {"rounds": 15, "steps_per_round": 50}  # all of the recipe
HELD_OUT = 200
_RUN = Path(__file__).with_name("training_before_run.py")


def run(*, full: bool, console: Console | None = None, results: Path = RESULTS) -> None:
    """Train on both sides and write the results."""
    console = console or Console()
    size = FULL if full else QUICK
    with tempfile.TemporaryDirectory(prefix="training-before-") as made, ExitStack() as running:
        folder = Path(made)
        _check_out(BEFORE, folder / "checkout")
        _prepare(folder, size)
        children = {}
        for name, checkout in {NOW: Path.cwd(), THEN: folder / "checkout"}.items():
            command = [sys.executable, str(_RUN), str(folder), name]
            environment = {"PYTHONPATH": str(checkout)}
            children[name] = running.enter_context(Child.of(command, folder / f"{name}.log", environment))
            if not Path(children[name].said()["code"]).is_relative_to(checkout):
                raise SystemExit(f"{name}: the code of another checkout was loaded than of {checkout}")
        seconds: dict[str, list[float]] = {name: [0.0] for name in children}
        for number in range(size["rounds"]):
            for name in sorted(children, reverse=number % 2 == 1):
                seconds[name].append(children[name].turn()["seconds"])
            figures = ", ".join(f"{name} {taken[-1] - taken[-2]:.1f} s" for name, taken in seconds.items())
            console.print(f"round {number + 1} of {size['rounds']}: {figures}", soft_wrap=True)
        losses = _score(folder)
    rows = rows_of(seconds, losses, size)
    write_results(results, rows)
    for row in rows:
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}, ratio {row.ratio:.3f}", soft_wrap=True)


def _check_out(commit: str, folder: Path) -> None:
    """The files of a commit, without git's."""
    found = subprocess.run(["git", "archive", commit, "adapter_service", "rl"], capture_output=True, check=False)
    if found.returncode:
        raise SystemExit(
            f"commit {commit} cannot be read ({found.stderr.decode().strip()}); this benchmark wants a clone with its "
            "whole history"
        )
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _prepare(folder: Path, size: Mapping[str, int]) -> None:
    """Write what both are given: the recipe's first samples and, for the loss, some that are held out."""
    from transformers import AutoTokenizer

    from adapter_service.base_models.importing import import_gguf
    from adapter_service.base_models.locating import locate

    settings = load_settings()
    bases_dir = settings.storage.state_dir.absolute() / "bases"
    base = settings.model.base
    location = locate(base)
    base_folder = import_gguf(location.parts, bases_dir, lambda _: None) if location.parts else location.folder
    renderer = Renderer(AutoTokenizer.from_pretrained(base_folder or base))
    held_out, rest = split_source(settings, settings.data.source)
    for samples in (held_out, rest):
        random.Random(0).shuffle(samples)
    steps = size["rounds"] * size["steps_per_round"]
    per_step = sequences_per_step(settings.training)
    rows = recipe_rows(renderer, settings, rest, min(steps * per_step, RECIPE["max_train_samples"]))
    write_rows(folder / "rows.json", rows)
    write_rows(folder / "holdout.json", recipe_rows(renderer, settings, held_out, HELD_OUT))
    epochs = -(-steps * per_step // len(rows))
    # What both know: presets came later, and the loop takes "auto" for the fast one.
    training = settings.training.model_dump(exclude={"preset", "loraplus_lr_ratio"})
    training |= {"max_steps": steps, "num_epochs": epochs, "save_steps": steps + 1}
    lora = {"r": settings.lora.r, "alpha": settings.lora.alpha}
    job = {"base": base, "bases_dir": str(bases_dir), "steps": steps, "training": training, "lora": lora, **size}
    (folder / "job.json").write_text(json.dumps(job))


def _score(folder: Path) -> dict[str, float]:
    """Loss per completion token on the holdout, by today's code for both."""
    from adapter_service.lora.folder import read_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base
    from adapter_service.training import evaluation
    from benchmarks.training_rows import read_rows

    job = json.loads((folder / "job.json").read_text())
    base = load_base(job["base"], bases_dir=Path(job["bases_dir"]), device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    rows = read_rows(folder / "holdout.json")

    def loss(name: str) -> float:
        adapter = read_folder(folder / name, layers).frozen_copy(base.adapter_dtype)
        return evaluation.score(base, adapter, rows, budget_tokens=512, pause=lambda: None).per_token

    return {name: loss(name) for name in (NOW, THEN)}


def rows_of(
    seconds: Mapping[str, Sequence[float]], losses: Mapping[str, float], size: Mapping[str, int]
) -> list[Result]:
    """`seconds` are those of training until the end of each round, from 0."""
    of_rounds = {name: [after - before for before, after in pairwise(taken)] for name, taken in seconds.items()}
    ratio = median(now / then for now, then in zip(of_rounds[NOW], of_rounds[THEN], strict=True))
    steps, peer = size["steps_per_round"], f"commit {BEFORE[:7]}"
    loss = losses[NOW] / losses[THEN]
    return [
        Result(
            f"make run's training: time for {steps} steps", median(of_rounds[NOW]), "s", peer, median(of_rounds[THEN]),
            ratio, TIME_RATIO, ratio <= TIME_RATIO,
        ),
        Result(
            f"make run's training: holdout loss after {steps * size['rounds']} steps", losses[NOW], "nats/token", peer,
            losses[THEN], loss, LOSS_RATIO, loss <= LOSS_RATIO,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    run(full=os.environ.get("BENCH") == "full")
