"""Train on what was streamed: what a job and the trainer's command line have in common.

Training runs on the engine's thread, which answers requests in between. What comes out is trained
weights; judging them is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.adapters import version_key
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.turn import Turn
from adapter_service.jobs.resuming import RunCheckpoint
from adapter_service.jobs.streaming import Streamed, Watch
from adapter_service.settings import Settings
from adapter_service.training.dataset import Dataset

if TYPE_CHECKING:
    from adapter_service.lora.adapter import Adapter, LoraConfig
    from adapter_service.training.progress import TrainingResult

# These split the work and the losses of a crash. Presets give the same weights to the bit; another split of the work
# gives others in their last bits, and in what dropout draws, which follows the split.
_NOT_THE_RECIPE = frozenset({"preset", "token_budget", "save_steps"})


@dataclass(frozen=True, slots=True)
class Trained:
    adapter: Adapter
    result: TrainingResult


def train(
    settings: Settings,
    dataset: Dataset,
    engine: Engine,
    watch: Watch,
    *,
    start: AdapterFiles | None,
    checkpoints: Path,
    run_key: str,
    discards_other: bool = False,
) -> Trained:
    """Train on the engine's thread, from the newest of `checkpoints` when there is one of this run.

    `start` is the adapter to begin with (a copy of it); without one it begins as the base. `run_key` is
    the run's `recipe_key`. With `discards_other` a checkpoint of another run or release is thrown away.

    Raises:
        DoesNotFitError: this machine has not the memory for it.
        TrainingError: `checkpoints` are of another run or release.
        JobCancelledError: the watch said so; what was done is in `checkpoints`.
    """

    def on_engine(turn: Turn) -> Trained:
        from adapter_service.training.checkpoint import conditions
        from adapter_service.training.loop import Hooks
        from adapter_service.training.loop import train as run_loop
        from adapter_service.training.memory import Demand, check_fits, copied_head_rows, largest_micro_batch
        from adapter_service.training.state import begin
        from adapter_service.training.vocabulary import tokens_of

        made_with = conditions(turn.base) | {
            "token_budget": settings.training.token_budget,
            "preset": settings.training.preset,
        }
        kept = RunCheckpoint(checkpoints, run_key, watch.note, made_with, discards_other)
        state = begin(_first_weights(settings, turn, start), settings.training)
        kept.load(state)
        longest = max((len(sample.ids) for sample in dataset.train), default=0)
        training = settings.training.model_copy(update={"token_budget": state.token_budget})
        copied = copied_head_rows(turn.base, settings.loss, lambda: len(tokens_of(dataset.train)))
        found = check_fits(Demand(turn.base, turn.layers, lora_config(settings), training, longest, copied))
        is_lowered = found.tokens < largest_micro_batch(training, longest)
        if is_lowered:
            state.token_budget = found.tokens
        if is_lowered or (settings.training.preset == "auto" and found.preset == "small"):
            watch.note(found.note)
        hooks = Hooks(
            pause=turn.pause,
            cancelled=watch.cancelled,
            report=watch.trained,
            save=kept.save,
            note=watch.note,
        )
        with kept.saved_when_stopped(state):
            chosen = settings.training.model_copy(update={"preset": found.preset})
            result = run_loop(turn.base, dataset.train, state, chosen, hooks, settings.loss)
        return Trained(state.adapter, result)

    return engine.run(on_engine)


def with_budget(settings: Settings, token_budget: int) -> Settings:
    """The settings with the token budget that there was memory for when it was trained."""
    training = settings.training.model_copy(update={"token_budget": token_budget})
    return settings.model_copy(update={"training": training})


def run_key(settings: Settings, streamed: Streamed, engine: Engine, parent_key: str | None) -> str:
    """What the run's weights follow from; `parent_key` stands for the adapter that it begins with."""
    precision = engine.base.precision.to_dict()
    del precision["reason"], precision["threads"]  # have this start's measurement in them
    training = settings.training.model_dump(mode="json")
    return _key(settings, streamed, engine, parent_key, {"training": training, "precision": precision})


def recipe_key(settings: Settings, streamed: Streamed, engine: Engine, parent_key: str | None) -> str:
    """What a checkpoint has to have in common with the run that goes on from it.

    Of `run_key` all but what changes only the last bits: a run that was begun on other hardware, or
    with another token budget, goes on and says so.
    """
    training = settings.training.model_dump(mode="json", exclude=set(_NOT_THE_RECIPE))
    return _key(settings, streamed, engine, parent_key, {"training": training})


def _key(settings: Settings, streamed: Streamed, engine: Engine, parent_key: str | None, more: dict[str, Any]) -> str:
    parameters = {
        "lora": settings.lora.model_dump(mode="json"),
        "loss": _loss(settings),
        "template": engine.renderer.template_id,
        **more,
    }
    return version_key(streamed.dataset.samples_hash, parameters, engine.base.identity, parent_key)


def _loss(settings: Settings) -> dict[str, Any]:
    """Of the `loss` section what has an effect."""
    loss = settings.loss
    return loss.model_dump(mode="json", exclude={"sampled_tokens"} if loss.vocabulary == "all" else None)


def lora_config(settings: Settings) -> LoraConfig:
    """The settings' `lora` section as the layer's configuration."""
    from adapter_service.lora.adapter import LoraConfig

    lora = settings.lora
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        layers=lora.layers,
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
    )


def _first_weights(settings: Settings, turn: Turn, start: AdapterFiles | None) -> Adapter:
    from adapter_service.lora.adapter import Adapter
    from adapter_service.lora.folder import read_folder

    if start is not None:  # from the file, not from what serves: that one may be in 16 bits
        return read_folder(start.folder, turn.layers).trainable_copy(settings.lora.dropout).to(turn.base.device)
    return Adapter.fresh(lora_config(settings), turn.layers, seed=settings.training.seed, device=turn.base.device)
