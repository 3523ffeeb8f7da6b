"""One trainer in a process of its own, a round at a time: `python -m benchmarks.training_run TRAINER FOLDER`.

`FOLDER` holds what all of them are given: `job.json`, `rows.json`, `holdout.json`, and `start`, the adapter that they
begin with; what each has made of it by the end of a round goes into `FOLDER/TRAINER/ROUND`. A trainer waits for a
line on stdin before its first step and after every round of steps, and says on stdout, a JSON object a line, what it
took so far; so several can live beside each other and work in turns. `score` instead of a trainer says the holdout
losses of all adapters.

The peers are transformers' Trainer with PEFT, and TRL's SFTTrainer. They are given token ids and labels, so that none
is charged for tokenizing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO

import torch

from adapter_service.rendering import RenderedSample
from benchmarks.training_rows import read_rows

START = "start"
SEQUENCES_PER_STEP = 8
OURS: dict[str, Literal["fast", "small"]] = {"ours_fast": "fast", "ours_small": "small"}
HF_FLOAT32, HF_TUNED, HF_SINGLE, TRL = "hf_float32", "hf_tuned", "hf_single", "trl"
# Of these a round has fewer steps, since they are there for their speed and memory alone.
BRIEF = frozenset({HF_FLOAT32, HF_SINGLE})
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SCORED_TOKENS = 2048
# Beside the layer's shapes: on two threads the larger product is the faster one.
_LARGE: tuple[int, int, int] = (2048, 2048, 2048)
_PEAK_REPEATS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """What every trainer is given; the rate is constant, so that ways of warming up do not matter.

    The two batches are how many of a step's sequences Trainer takes at a time, tuned and by default; the rest is
    accumulated. TRL takes all of them.
    """

    base: str
    base_folder: str
    bases_dir: str
    rounds: int
    steps_per_round: int
    brief_steps_per_round: int
    tuned_batch: int
    default_batch: int
    sequences_per_step: int = SEQUENCES_PER_STEP
    learning_rate: float = 2e-4  # without a warmup, 5e-4 makes Gemma's loss rise at first
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    seed: int = 0

    def of_a_round(self, trainer: str) -> int:
        """Steps that a trainer makes before it waits."""
        return self.brief_steps_per_round if trainer in BRIEF else self.steps_per_round

    def steps(self, trainer: str) -> int:
        return self.rounds * self.of_a_round(trainer)


class Meter:
    """Tokens, time and memory of a run from its first step on; the time in which it waits does not count.

    Memory is resident memory, the most that there was above what lay there with the base loaded. After each round
    `save` is called with a folder for the adapter.
    """

    def __init__(
        self, model: Any, job: Job, folder: Path, said: TextIO, *, name: str, save: Callable[[Path], None]
    ) -> None:
        self._said = said
        self._folder = folder / name
        self._save = save
        self._steps_per_round = job.of_a_round(name)
        self._steps = self._tokens = 0
        self._seconds = self._processor_seconds = 0.0
        for parameter in model.parameters():  # what is mapped from the file is read now, and not in the first step
            parameter.detach().sum()
        _return_memory()
        self._resident = _kilobytes("VmRSS")
        _wait(said, {"loaded_mb": self._resident / 1024})
        _CLEAR.write_text("5")  # the peak counts from here
        self._go_on()

    def saw(self, tokens: int) -> None:
        """Count tokens that were trained with, without padding."""
        self._tokens += tokens

    def after_step(self) -> None:
        """At the end of a round, write the adapter, say what was taken so far and wait for the next one."""
        self._seconds += time.perf_counter() - self._since
        self._processor_seconds += time.process_time() - self._since_processor
        self._steps += 1
        if self._steps % self._steps_per_round == 0:
            taken = self._taken()
            made = self._folder / f"{self._steps // self._steps_per_round:03}"
            made.mkdir(parents=True, exist_ok=True)
            self._save(made)
            _return_memory()  # there are others, and Trainer by default keeps 5 GB
            _wait(self._said, taken)
        self._go_on()

    def _go_on(self) -> None:
        self._since, self._since_processor = time.perf_counter(), time.process_time()

    def _taken(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "tokens": self._tokens,
            "seconds": self._seconds,
            "processor_seconds": self._processor_seconds,
            "grown_mb": (_kilobytes("VmHWM") - self._resident) / 1024,
        }


# Trains on the rows from the adapter in the folder; says what is known beside the meter.
Training = Callable[[Job, Sequence[RenderedSample], Path, TextIO], dict[str, float]]


def train_ours(job: Job, rows: Sequence[RenderedSample], folder: Path, said: TextIO, *, name: str) -> dict[str, float]:
    from adapter_service.lora.folder import read_folder, write_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base
    from adapter_service.settings import TrainingSettings
    from adapter_service.training import memory
    from adapter_service.training.batching import padded_length
    from adapter_service.training.flops import Work
    from adapter_service.training.loop import Hooks, train
    from adapter_service.training.progress import Progress
    from adapter_service.training.state import begin

    base = load_base(job.base, bases_dir=Path(job.bases_dir), device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    adapter = read_folder(folder / START, layers).trainable_copy()
    settings = TrainingSettings(
        preset=OURS[name],
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=job.max_grad_norm,
        adam_beta1=job.adam_beta1,
        adam_beta2=job.adam_beta2,
        per_device_train_batch_size=job.sequences_per_step,
        max_steps=job.steps(name),
        seed=job.seed,
        save_steps=job.steps(name),
    )
    peak = _peak_gflops(base.precision.dtype)
    meter = Meter(base.model, job, folder, said, name=name, save=partial(write_folder, adapter, base_name=base.name))
    counted = 0

    def report(done: Progress) -> None:
        nonlocal counted
        meter.saw(done.tokens - counted)
        counted = done.tokens
        meter.after_step()

    train(base, rows, begin(adapter, settings), settings, Hooks(report=report))
    longest = padded_length(max(len(row.ids) for row in rows))
    tokens = memory.largest_micro_batch(settings, longest)
    demand = memory.Demand(base, layers, adapter.config, settings, longest)
    estimated = memory.estimate_bytes(demand, tokens, preset=OURS[name])
    work = Work.of(base.model, layers, {path: adapter.config.rank(path) for path in adapter.pairs})
    return {
        "gflop": work.flops(rows) / 1e9,
        "peak_gflops": max(peak, _peak_gflops(base.precision.dtype)),
        "estimated_mb": estimated / 2**20,
    }


def _peak_gflops(dtype: torch.dtype) -> float:
    """What this machine multiplies at most on the threads that train; what else it does can only lower it."""
    from adapter_service.base_models.precision import PEAK_SHAPES, gemm_gflops

    return gemm_gflops(dtype, _PEAK_REPEATS, (*PEAK_SHAPES, _LARGE))


def train_with_transformers(
    job: Job,
    rows: Sequence[RenderedSample],
    folder: Path,
    said: TextIO,
    *,
    name: str,
    dtype: torch.dtype,
    **arguments: Any,
) -> dict[str, float]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(job.base_folder, dtype=dtype)
    model = PeftModel.from_pretrained(model, folder / START, is_trainable=True)
    if arguments.get("gradient_checkpointing"):
        model.enable_input_require_grads()
    batch = {HF_FLOAT32: job.default_batch, HF_TUNED: job.tuned_batch, HF_SINGLE: 1}[name]
    accumulated = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": job.sequences_per_step // batch,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_arguments(job, name, folder), **accumulated, **arguments),
        train_dataset=_dataset(rows),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job.base_folder)),
    )
    _train(trainer, Meter(model, job, folder, said, name=name, save=model.save_pretrained))
    return {}


def train_with_trl(
    job: Job, rows: Sequence[RenderedSample], folder: Path, said: TextIO, *, name: str
) -> dict[str, float]:
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config = _arguments(job, name, folder) | {"per_device_train_batch_size": job.sequences_per_step}
    lora = PeftConfig.from_pretrained(folder / START)
    lora.inference_mode = False  # with it PEFT freezes the adapter, and TRL trains nothing without a word
    trainer = SFTTrainer(
        model=job.base_folder,
        args=SFTConfig(**config),
        train_dataset=_dataset(rows),
        peft_config=lora,
        processing_class=AutoTokenizer.from_pretrained(job.base_folder),
    )
    set_peft_model_state_dict(trainer.model, load_file(folder / START / "adapter_model.safetensors"))
    _train(trainer, Meter(trainer.model, job, folder, said, name=name, save=trainer.model.save_pretrained))
    return {}


_TUNED: dict[str, Any] = {
    "dtype": torch.bfloat16,
    "train_sampling_strategy": "group_by_length",
    "gradient_checkpointing": True,
}
TRAINERS: dict[str, Training] = {
    **{name: partial(train_ours, name=name) for name in OURS},
    HF_FLOAT32: partial(train_with_transformers, name=HF_FLOAT32, dtype=torch.float32),
    HF_TUNED: partial(train_with_transformers, name=HF_TUNED, **_TUNED),
    HF_SINGLE: partial(train_with_transformers, name=HF_SINGLE, **_TUNED),
    TRL: partial(train_with_trl, name=TRL),
}


def score(job: Job, folder: Path) -> dict[str, list[float]]:
    """Loss per completion token on the holdout of what is in `folder`, by our scoring for all.

    Of each trainer after each of its rounds, and of the adapter that they began with.
    """
    from adapter_service.lora.folder import read_folder
    from adapter_service.lora.layer import install
    from adapter_service.model_utils import load_base
    from adapter_service.training import evaluation

    base = load_base(job.base, bases_dir=Path(job.bases_dir), device="cpu")
    layers = install(base.model, keep=base.model.get_output_embeddings())
    rows = read_rows(folder / "holdout.json")

    def loss(made: Path) -> float:
        adapter = read_folder(made, layers).frozen_copy(base.adapter_dtype)
        return evaluation.score(base, adapter, rows, budget_tokens=_SCORED_TOKENS, pause=lambda: None).per_token

    trained = {name: sorted((folder / name).iterdir()) for name in TRAINERS if (folder / name).is_dir()}
    return {START: [loss(folder / START)], **{name: [loss(made) for made in each] for name, each in trained.items()}}


def _arguments(job: Job, name: str, folder: Path) -> dict[str, Any]:
    """What the peers have to be told to do the same work; all else is their default."""
    return {
        "output_dir": str(folder / f"{name}-work"),
        "max_steps": job.steps(name),
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": job.max_grad_norm,
        "adam_beta1": job.adam_beta1,
        "adam_beta2": job.adam_beta2,
        "weight_decay": 0.0,
        "seed": job.seed,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }


def _dataset(rows: Sequence[RenderedSample]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "attention_mask": [1] * len(row.ids),
                "labels": [-100] * row.completion_start + list(row.ids[row.completion_start :]),
            }
            for row in rows
        ]
    )


def _train(trainer: Any, meter: Meter) -> None:
    """Have a peer train, and `meter` told of the tokens of every pass and of every step."""
    from transformers import TrainerCallback

    def count(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        meter.saw(int(named["attention_mask"].sum()))

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **_named: Any) -> None:
            meter.after_step()

    # Not in the collator: the data loader is ahead of what is trained on.
    trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.add_callback(Told())
    trainer.train()


def _wait(said: TextIO, message: dict[str, Any]) -> None:
    """Say where this trainer is and wait for its turn."""
    said.write(json.dumps(message) + "\n")
    said.flush()
    if not sys.stdin.readline():
        raise SystemExit("whoever gave the turns is gone")


def _return_memory() -> None:
    """Give back to the system what was freed: after loading, so that none of it is used again uncounted."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    # The trainers print their logs; what is said to the parent has the real stdout for itself.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    job = Job(**json.loads((folder / "job.json").read_text()))
    found = (
        score(job, folder) if name == "score" else TRAINERS[name](job, read_rows(folder / "rows.json"), folder, said)
    )
    said.write(json.dumps(found) + "\n")
    said.flush()


if __name__ == "__main__":
    main()
