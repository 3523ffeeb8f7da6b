"""Train one adapter without the server: `python adapter_service/train_adapt.py --output_dir out`.

The same streaming, training and measuring as a job of the service; the adapter ends up in a folder
instead of the service's versions, and nothing is served.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a file: the folder above the package is what Python shall look in
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.table import Table

from adapter_service.cli.progress import run_progress
from adapter_service.cli.terminal import plain_console, tell_error
from adapter_service.cli.train_options import parser, request_of, settings_of
from adapter_service.connectors.opening import source_opener
from adapter_service.durable import sync, sync_folder
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import base_loader
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError, InvalidParameterError, SourceError, StorageError
from adapter_service.jobs.adapter_files import write_adapter_files
from adapter_service.jobs.evaluating import measure
from adapter_service.jobs.learning import Trained, recipe_key, train, with_budget
from adapter_service.jobs.streaming import OpenSource, Streamed, stream
from adapter_service.jobs.train_request import going_on_from, raised_budget, settings_for
from adapter_service.settings import LoraSettings, Settings, validate_section
from adapter_service.storage_faults import storage_fault
from adapter_service.training.checkpoint import has_checkpoint
from adapter_service.training.gate import Decision, decide
from adapter_service.training.spool import has_samples

if TYPE_CHECKING:
    from adapter_service.training.progress import Progress as TrainingProgress

_STREAM, _CHECKPOINTS = "stream", "checkpoints"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for a reason that is said in one line, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        _run(options, plain_console())
    except AdapterServiceError as error:
        tell_error(error)
        return 1
    except KeyboardInterrupt:
        plain_console(stderr=True).print(f"stopped; {_what_next(options)}")
        return 130
    except Exception as error:
        if storage_fault(error) is None:
            raise
        tell_error(StorageError(f"the disk of --output_dir took no more ({error}); mend that; {_what_next(options)}"))
        return 1
    return 0


def _what_next(options: argparse.Namespace) -> str:
    return "go on with --resume" if _is_begun(_work(options)) else "nothing was streamed yet, so nothing is kept"


def _run(options: argparse.Namespace, console: Console) -> None:
    output, work = options.output_dir.resolve(), _work(options)
    start = _start(options.init_adapter)
    settings = _settings(options, start, console)
    open_source = source_opener(settings, at_command_line=True)
    _check_output(output)
    _check_work(work, resume=options.resume)
    if not options.resume:  # what was streamed may be all that a resumed run needs
        _check_source(settings, open_source, console)
    engine = Engine(base_loader(settings))
    with _Display(console) as display:
        engine.start()
        display.note(f"base {settings.model.base}")
        try:
            streamed = stream(settings, open_source, engine, display, work / _STREAM)
            trained = train(
                settings,
                streamed.dataset,
                engine,
                display,
                start=start,
                checkpoints=work / _CHECKPOINTS,
                run_key=recipe_key(settings, streamed, engine, start.key if start else None),
            )
            display.note("measuring against the base on the holdout")
            decision = _judge(settings, streamed, trained, engine, display)
            _write(output, settings, streamed, trained, engine)
        finally:
            engine.stop()
    shutil.rmtree(work, ignore_errors=True)
    console.print(_summary(output, streamed, trained, decision))


def _settings(options: argparse.Namespace, start: AdapterFiles | None, console: Console) -> Settings:
    """The file's settings, with the options and the shape of the adapter to begin with in their places."""
    settings, request = settings_of(options), request_of(options)
    if budget := raised_budget(request, settings):
        console.print(f"token_budget is raised to {budget}, so that max_seq_length fits")
    settings = settings_for(request, settings)
    return settings if start is None else going_on_from(_shape(start.folder), request, settings)


def _start(folder: Path | None) -> AdapterFiles | None:
    """The adapter to begin with; its key is that of its weights, whatever the folder is called."""
    if folder is None:
        return None
    from adapter_service.lora.folder import CONFIG_FILE, WEIGHTS_FILE

    if missing := [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]:
        raise InvalidParameterError(f"--init_adapter {str(folder)!r} is no adapter folder: no {missing[0]}")
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return AdapterFiles(hashlib.file_digest(file, "sha256").hexdigest(), folder, folder.name)


def _shape(folder: Path) -> dict[str, Any]:
    """An adapter's own configuration as the `lora` section of settings."""
    from adapter_service.lora.adapter import ALL_LINEAR
    from adapter_service.lora.folder import CONFIG_FILE, read_config

    described = asdict(read_config(folder))
    targets = described["target_modules"]
    if isinstance(targets, str) and targets != ALL_LINEAR:  # a pattern; settings have it in a list
        described["target_modules"] = [targets]
    return validate_section(LoraSettings, described, where=f"{CONFIG_FILE} of --init_adapter").model_dump()


def _work(options: argparse.Namespace) -> Path:
    """Where the run keeps what it can go on from: beside the output folder, which is to hold the adapter alone."""
    output: Path = options.output_dir.resolve()
    return output.with_name(output.name + ".checkpoint")


def _is_begun(work: Path) -> bool:
    return has_samples(work / _STREAM) or has_checkpoint(work / _CHECKPOINTS)


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidParameterError(f"--output_dir {str(output)!r} is not empty; name another or empty it")
    try:  # now, and not when hours of training are to be written
        output.parent.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent).cleanup()
    except OSError as error:
        raise InvalidParameterError(f"--output_dir {str(output)!r} cannot be made ({error}); name another") from error


def _check_source(settings: Settings, open_source: OpenSource, console: Console) -> None:
    """Look whether the source is there before the base is loaded, which takes far longer."""
    try:
        found = open_source(settings.data.source).check()
    except SourceError:
        if settings.data.fallback_source is None:
            raise
        return  # the stream says what it reads instead
    console.print(f"source {settings.data.source}: {found}", soft_wrap=True)


def _check_work(work: Path, *, resume: bool) -> None:
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    elif not _is_begun(work):
        raise InvalidParameterError(
            f"--resume: there is no checkpoint {work.name!r} beside the output folder; start without it"
        )


def _judge(
    settings: Settings, streamed: Streamed, trained: Trained, engine: Engine, display: _Display
) -> Decision | None:
    if not streamed.dataset.holdout:
        return None
    settings = with_budget(settings, trained.result.token_budget)
    candidate = measure(settings, streamed.dataset, engine, display, trained.adapter)
    base = measure(settings, streamed.dataset, engine, display, None)
    return decide(candidate, base, settings.gate, seed=settings.training.seed)


def _write(output: Path, settings: Settings, streamed: Streamed, trained: Trained, engine: Engine) -> None:
    """Write the folder beside its place and rename it there: a half-written adapter is never seen.

    When this returns the disk has it, so that the checkpoint may go.
    """
    work = output.with_name(output.name + ".writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_adapter_files(work, trained, streamed, settings, engine, output.name)
    sync_folder(work)
    work.replace(output)  # at most an empty folder: it was looked at before
    sync(output.parent)


def _summary(output: Path, streamed: Streamed, trained: Trained, decision: Decision | None) -> Table:
    result, counts = trained.result, streamed.counts
    table = Table(title=f"adapter in {output}", show_header=False)
    table.add_row(
        "samples",
        f"{len(streamed.dataset.train)} trained on, {counts['held_out']} held out, {counts['skipped']} skipped",
    )
    table.add_row("steps", str(result.steps))
    table.add_row(result.loss_name, f"{result.first_loss:.3f} → {result.last_loss:.3f} per token")
    table.add_row("speed", f"{result.tokens / result.seconds:.0f} tokens/s over {result.seconds:.0f} s")
    table.add_row("peak memory", f"{result.peak_memory_mb} MB")
    for reason in decision.reasons if decision else ("nothing was held out, so nothing was measured",):
        table.add_row("holdout", reason)
    return table


class _Display:
    """Follows the run: where it is, loss, tokens/s, time left, memory."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = run_progress(console)

    def __enter__(self) -> _Display:
        self._progress.__enter__()
        self._progress.show("loading")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__(None, None, None)

    def streamed(self, counts: Mapping[str, Any]) -> None:
        self._progress.show("streaming", f"{counts['used']} samples")

    def trained(self, progress: TrainingProgress) -> None:
        self._progress.show(
            "training",
            f"step {progress.step}/{progress.total_steps}  {progress.loss_name} {progress.loss:.3f}  "
            f"{progress.tokens_per_second:.0f} tokens/s  {progress.peak_memory_mb} MB",
            completed=progress.step,
            total=progress.total_steps,
        )

    def note(self, message: str) -> None:
        self._console.print(message)

    def cancelled(self) -> bool:
        return False


if __name__ == "__main__":
    sys.exit(main())
