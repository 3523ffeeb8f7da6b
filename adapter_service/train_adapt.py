"""Train one adapter without the server: `python adapter_service/train_adapt.py --output_dir out`.

The same streaming, training and measuring as a job of the service; the adapter ends up in a folder
instead of the service's versions, and nothing is served.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a file: the folder above the package is what Python shall look in
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from adapter_service.connectors.opening import source_opener
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import base_loader
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError, InvalidParameterError
from adapter_service.jobs.evaluating import measure
from adapter_service.jobs.learning import Streamed, Trained, stream, train
from adapter_service.jobs.train_request import TrainRequest, settings_for
from adapter_service.settings import Settings, load_settings
from adapter_service.training.gate import Decision, decide

if TYPE_CHECKING:
    from adapter_service.training.loop import Progress as TrainingProgress

# Option → field of the training request; every other option is read in `_settings`.
_REQUEST_OPTIONS = {
    "num_epochs": "num_epochs",
    "per_device_train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "streaming_source": "source",
    "max_train_samples": "max_train_samples",
    "learning_rate": "learning_rate",
    "lora_r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "target_modules",
    "max_seq_length": "max_seq_length",
    "seed": "seed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for a reason that is said in one line, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        _run(options, console)
    except AdapterServiceError as error:
        Console(stderr=True, soft_wrap=True).print(f"error ({error.code}): {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; go on with --resume")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_adapt.py",
        description="Stream text, train a LoRA adapter (PEFT format) and measure it against the base.",
        epilog="What is not given comes from the configuration file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name_or_path", help="base: package:NAME, a folder, a .gguf file or a Hub id")
    add("--output_dir", type=Path, default=Path("adapter-out"), help="where the adapter goes (default: adapter-out)")
    add("--streaming_source", help="a configured source, an https:// address, or a file")
    add("--max_train_samples", "--max-samples", type=int, help="samples to train on, at most")
    add("--num_epochs", type=int)
    add("--per_device_train_batch_size", type=int)
    add("--gradient_accumulation_steps", type=int)
    add("--learning_rate", type=float)
    add("--lora_r", type=int)
    add("--lora_alpha", type=int)
    add("--lora_dropout", type=float)
    add("--target_modules", nargs="+", help="all-linear, or names of linear layers")
    add("--max_seq_length", type=int, help="tokens; longer samples are left out and counted")
    add("--seed", type=int)
    add("--use_8bit", type=_truth, nargs="?", const=True, metavar="True|False", help="hold the base in 8 bits")
    add("--use_4bit", type=_truth, nargs="?", const=True, metavar="True|False", help="hold the base in 4 bits (CUDA)")
    add("--config", type=Path, help="adapter_config.yaml to use")
    add("--sources", type=Path, help="mcp_connectors.yml to use")
    add("--resume", action="store_true", help="go on from the last checkpoint in --output_dir")
    add("--init_adapter", type=Path, help="begin with a copy of the adapter in this folder")
    return parser


def _truth(text: str) -> bool:
    if text.lower() in {"true", "yes", "1", "on"}:
        return True
    if text.lower() in {"false", "no", "0", "off"}:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _settings(options: argparse.Namespace) -> Settings:
    """The configuration file with the options in their places."""
    settings = load_settings(options.config, options.sources, os.environ)
    given = {field: getattr(options, option) for option, field in _REQUEST_OPTIONS.items()}
    if given["target_modules"] == ["all-linear"]:
        given["target_modules"] = "all-linear"
    request = TrainRequest(adapter="command-line", **{key: value for key, value in given.items() if value is not None})
    settings = settings_for(request, settings)
    model, quantization = settings.model, settings.quantization
    if options.model_name_or_path:
        model = model.model_copy(update={"base": options.model_name_or_path})
    widths = {name: getattr(options, name) for name in ("use_8bit", "use_4bit")}
    quantization = quantization.model_copy(update={k: v for k, v in widths.items() if v is not None})
    return settings.model_copy(update={"model": model, "quantization": quantization})


def _run(options: argparse.Namespace, console: Console) -> None:
    settings = _settings(options)
    output: Path = options.output_dir
    checkpoint = output.with_name(output.name + ".checkpoint")
    _check_output(output, checkpoint, resume=options.resume)
    start = _start(options.init_adapter)
    engine = Engine(base_loader(settings))
    with _Display(console) as display:
        engine.start()
        display.note(f"base {settings.model.base}")
        try:
            engine.wait_until_ready()
            streamed = stream(settings, source_opener(settings, at_command_line=True), engine, display)
            trained = train(
                settings,
                streamed.dataset,
                engine,
                display,
                start=start,
                checkpoint=checkpoint,
                run_key=_run_key(settings, streamed, engine),
            )
            display.note("measuring against the base on the holdout")
            decision = _judge(settings, streamed, trained, engine, display)
            _write(output, settings, streamed, trained, engine)
        finally:
            engine.stop()
    shutil.rmtree(checkpoint, ignore_errors=True)
    console.print(_summary(output, streamed, trained, decision))


def _check_output(output: Path, checkpoint: Path, *, resume: bool) -> None:
    if output.exists() and any(output.iterdir()):
        raise InvalidParameterError(f"--output_dir {str(output)!r} is not empty; name another or empty it")
    if resume and not checkpoint.is_dir():
        raise InvalidParameterError(f"--resume: there is no checkpoint {checkpoint.name!r} beside the output folder")
    if not resume:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _start(folder: Path | None) -> AdapterFiles | None:
    if folder is None:
        return None
    if not (folder / "adapter_config.json").is_file():
        raise InvalidParameterError(f"--init_adapter {str(folder)!r} is no adapter folder: no adapter_config.json")
    return AdapterFiles(str(folder.resolve()), folder)


def _run_key(settings: Settings, streamed: Streamed, engine: Engine) -> str:
    described = {"lora": settings.lora.model_dump(mode="json"), "training": settings.training.model_dump(mode="json")}
    return f"{streamed.dataset.samples_hash}:{engine.base.identity}:{json.dumps(described, sort_keys=True)}"


def _judge(
    settings: Settings, streamed: Streamed, trained: Trained, engine: Engine, display: _Display
) -> Decision | None:
    if not streamed.dataset.holdout:
        return None
    candidate = measure(settings, streamed.dataset, engine, display, trained.adapter)
    base = measure(settings, streamed.dataset, engine, display, None)
    return decide(candidate, base, settings.gate, seed=settings.training.seed)


def _write(output: Path, settings: Settings, streamed: Streamed, trained: Trained, engine: Engine) -> None:
    """Write the folder beside its place and rename it there: a half-written adapter is never seen."""
    from adapter_service.lora.folder import write_folder
    from adapter_service.training.card import metadata, write_card

    work = output.with_name(output.name + ".writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_folder(trained.adapter, work, base_name=engine.base.name)
    described = metadata(
        name=output.name,
        source=streamed.source,
        base=engine.base,
        lora=settings.lora,
        training=settings.training,
        dataset=streamed.dataset,
        result=trained.result,
        template_id=engine.renderer.template_id,
    )
    write_card(work, described)
    if output.exists():
        output.rmdir()  # empty: it was looked at before
    work.rename(output)


def _summary(output: Path, streamed: Streamed, trained: Trained, decision: Decision | None) -> Table:
    result, counts = trained.result, streamed.counts
    table = Table(title=f"adapter in {output}", show_header=False)
    table.add_row("samples", f"{result.samples} trained on, {counts['held_out']} held out, {counts['skipped']} skipped")
    table.add_row("steps", str(result.steps))
    table.add_row("loss", f"{result.first_loss:.3f} → {result.last_loss:.3f} per token")
    table.add_row("speed", f"{result.tokens / result.seconds:.0f} tokens/s over {result.seconds:.0f} s")
    table.add_row("peak memory", f"{result.peak_memory_mb} MB")
    for reason in decision.reasons if decision else ("nothing was held out, so nothing was measured",):
        table.add_row("holdout", reason)
    return table


@dataclass
class _Display:
    """A progress bar: where the run is, loss, tokens/s, time left, memory."""

    console: Console

    def __enter__(self) -> _Display:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._bar.start()
        self._task: TaskID = self._bar.add_task("loading", total=None, figures="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def streamed(self, counts: Mapping[str, Any]) -> None:
        self._bar.update(self._task, description="streaming", figures=f"{counts['used']} samples")

    def trained(self, progress: TrainingProgress) -> None:
        self._bar.update(
            self._task,
            description="training",
            completed=progress.step,
            total=progress.total_steps,
            figures=(
                f"loss {progress.loss:.3f}  {progress.tokens_per_second:.0f} tokens/s  {progress.peak_memory_mb} MB"
            ),
        )

    def note(self, message: str) -> None:
        self.console.print(message, markup=False)

    def cancelled(self) -> bool:
        return False


if __name__ == "__main__":
    sys.exit(main())
