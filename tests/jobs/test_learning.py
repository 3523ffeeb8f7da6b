"""Streaming and training through the engine: every setting of both sections does something."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from safetensors import SafetensorError

from adapter_service.connectors.opening import source_opener
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Generation
from adapter_service.engine.requests import Ask, Sampling
from adapter_service.errors import JobCancelledError, TrainingError
from adapter_service.jobs import streaming
from adapter_service.jobs.learning import Trained, lora_config, recipe_key, train
from adapter_service.jobs.streaming import Streamed, stream
from adapter_service.settings import LoraSettings, LossSettings, Settings, TrainingSettings
from adapter_service.training import checkpoint as checkpoint_module
from adapter_service.training.progress import Progress
from tests.jobs.bench import local_source, toy_records, toy_settings
from tests.training.small_run import weights_of


@dataclass
class Recorder:
    """A watch that writes down what it is told."""

    counts: list[Mapping[str, Any]] = field(default_factory=list)
    told: list[Progress] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asked: int = 0
    cancel_at: int | None = None
    cancel_after_steps: int | None = None

    def streamed(self, counts: Mapping[str, Any]) -> None:
        self.counts.append(counts)

    def trained(self, progress: Progress) -> None:
        self.told.append(progress)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def cancelled(self) -> bool:
        self.asked += 1
        return self.asked == self.cancel_at or len(self.told) == self.cancel_after_steps


# One change at a time against these; every step is small, and every rate and save is passed through.
PLAIN: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "alpha": 4},
    "training": {"num_epochs": 1, "per_device_train_batch_size": 4, "save_steps": 2, "max_seq_length": 24},
    "loss": {"vocabulary": "sampled", "sampled_tokens": 64},
    "data": {"max_train_samples": 40, "max_skipped_fraction": 1.0},
}

# (section, key) → another value, and in what a run shows it.
EFFECTS: dict[tuple[str, str], tuple[Any, str]] = {
    ("lora", "r"): (3, "ranks"),
    ("lora", "alpha"): (8, "scales"),
    ("lora", "dropout"): (0.3, "weights"),
    ("lora", "target_modules"): (["q_proj", "down_proj"], "ranks"),
    ("lora", "layers"): ("top-half", "ranks"),
    ("lora", "use_rslora"): (True, "scales"),
    ("lora", "rank_pattern"): ({"q_proj": 5}, "ranks"),
    ("lora", "alpha_pattern"): ({"q_proj": 9}, "scales"),
    ("training", "preset"): ("small", "preset"),
    ("training", "num_epochs"): (2, "steps"),
    ("training", "per_device_train_batch_size"): (8, "steps"),
    ("training", "gradient_accumulation_steps"): (2, "steps"),
    ("training", "max_steps"): (5, "steps"),
    ("training", "learning_rate"): (0.02, "rates"),
    ("training", "loraplus_lr_ratio"): (16.0, "weights"),
    ("training", "lr_scheduler_type"): ("linear", "rates"),
    ("training", "min_lr_ratio"): (0.5, "rates"),
    ("training", "warmup_steps"): (1, "rates"),
    ("training", "weight_decay"): (0.1, "weights"),
    ("training", "adam_beta1"): (0.5, "weights"),
    ("training", "adam_beta2"): (0.5, "weights"),
    ("training", "max_grad_norm"): (1e-6, "weights"),
    ("training", "max_seq_length"): (10, "refused"),
    ("training", "token_budget"): (32, "micro_steps"),
    ("training", "embedding_noise"): (0.3, "weights"),
    ("training", "save_steps"): (3, "saved_at"),
    ("training", "seed"): (1, "weights"),
    ("loss", "vocabulary"): ("all", "weights"),
    ("loss", "sampled_tokens"): (128, "weights"),
}


def settings_in(folder: Path, *, instruction: str = "", **sections: Mapping[str, Any]) -> Settings:
    merged = {name: {**PLAIN.get(name, {}), **sections.get(name, {})} for name in {*PLAIN, *sections}}
    records = [{**record, "prompt": f"{instruction}{record['prompt']}"} for record in toy_records()]
    return toy_settings(local_source("toy", folder, records), **merged)


def streamed_by(engine: Engine, settings: Settings, watch: Recorder | None = None) -> Streamed:
    with TemporaryDirectory() as folder:
        return stream(settings, source_opener(settings), engine, watch or Recorder(), Path(folder))


def trained_by(
    engine: Engine, settings: Settings, streamed: Streamed, folder: Path, watch: Recorder, **options: Any
) -> Trained:
    """Into `folder/checkpoints`, as the run called "run" where `options` have no other key."""
    checkpoints = folder / "checkpoints"
    options = {"run_key": "run", **options}
    return train(settings, streamed.dataset, engine, watch, start=None, checkpoints=checkpoints, **options)


def newest(folder: Path) -> dict[str, Any]:
    """The state in the newest checkpoint of a run in `folder`."""
    place = max((folder / "checkpoints").iterdir())
    state: dict[str, Any] = json.loads((place / "state.json").read_text())
    return state


def observed(engine: Engine, settings: Settings, folder: Path) -> dict[str, Any]:
    """All that can be seen of a run."""
    watch = Recorder()
    streamed = streamed_by(engine, settings)
    trained = trained_by(engine, settings, streamed, folder, watch)
    pairs = trained.adapter.pairs.items()
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in trained.adapter.parameters()))
    return {
        "ranks": {path: pair.a.shape[0] for path, pair in pairs},
        "scales": {path: pair.scale for path, pair in pairs},
        "weights": digest.hexdigest(),
        "preset": trained.result.preset,
        "steps": trained.result.steps,
        "rates": [progress.learning_rate for progress in watch.told],
        "micro_steps": watch.asked,
        "saved_at": newest(folder)["step"],
        "refused": streamed.counts["refused"],
    }


@pytest.mark.parametrize(
    ("section", "model"), [("lora", LoraSettings), ("training", TrainingSettings), ("loss", LossSettings)]
)
def test_every_setting_of_training_has_an_effect_in_this_table(section: str, model: Any) -> None:
    elsewhere = {"prefix_gradient"} if section == "training" else set[str]()
    assert {key for name, key in EFFECTS if name == section} | elsewhere == model.model_fields.keys()


@pytest.mark.parametrize(("section", "key"), EFFECTS)
def test_a_setting_changes_what_the_trainer_does(engine: Engine, tmp_path: Path, section: str, key: str) -> None:
    value, seen_in = EFFECTS[section, key]
    plain = observed(engine, settings_in(tmp_path), tmp_path / "plain")
    sections: dict[str, Any] = {section: {key: value}}
    changed = observed(engine, settings_in(tmp_path, **sections), tmp_path / "changed")
    assert changed[seen_in] != plain[seen_in]


def test_what_samples_begin_with_is_learned_from_or_not(engine: Engine, tmp_path: Path) -> None:
    learned, kept = (
        observed(
            engine,
            settings_in(
                tmp_path, instruction="Now decide: ", training={"max_seq_length": 48, "prefix_gradient": learns}
            ),
            tmp_path / str(learns),
        )
        for learns in (True, False)
    )
    assert kept["weights"] != learned["weights"]
    assert kept["steps"] == learned["steps"]


def test_equal_settings_give_equal_runs(engine: Engine, tmp_path: Path) -> None:
    first, second = (observed(engine, settings_in(tmp_path), tmp_path / name) for name in "ab")
    assert first == second


def test_the_lora_section_is_peft_s_configuration(tmp_path: Path) -> None:
    values = {"r": 4, "alpha": 9, "dropout": 0.5, "target_modules": ["q_proj"], "use_rslora": True}
    values |= {"layers": "top-half"}
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}
    config = lora_config(settings_in(tmp_path, lora={**values, **patterns}))
    assert {name: getattr(config, name) for name in (*values, *patterns)} == {
        **values,
        **patterns,
        "target_modules": ("q_proj",),
    }


@pytest.mark.parametrize(("cancel_at", "asked"), [(1, 1), (5, 5)])
def test_a_cancelled_stream_ends_at_the_next_sample(engine: Engine, tmp_path: Path, cancel_at: int, asked: int) -> None:
    watch = Recorder(cancel_at=cancel_at)
    with pytest.raises(JobCancelledError, match="while streaming"):
        streamed_by(engine, settings_in(tmp_path), watch)
    assert watch.asked == asked


def test_a_stream_that_gives_nothing_can_be_cancelled_too(engine: Engine, tmp_path: Path) -> None:
    source = local_source("useless", tmp_path, toy_records(), fields={"prompt": "question"})
    watch = Recorder(cancel_at=5)
    with pytest.raises(JobCancelledError, match="while streaming"):
        streamed_by(engine, toy_settings(source, data={"source": "useless", "max_skipped_fraction": 1.0}), watch)
    assert watch.asked == 5


def test_counts_are_told_now_and_then_and_at_the_end(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TELL_SECONDS", 3600.0)
    watch = Recorder()
    streamed = streamed_by(engine, settings_in(tmp_path), watch)
    assert [counts["read"] for counts in watch.counts] == [1, streamed.counts["read"]]


def test_training_asks_whether_to_stop_at_every_layer(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    watch = Recorder(cancel_at=3)
    with pytest.raises(JobCancelledError, match="while training"):
        trained_by(engine, settings, streamed_by(engine, settings), tmp_path, watch)
    assert watch.asked == 3


def test_a_stream_that_is_left_early_says_at_what(engine: Engine, tmp_path: Path) -> None:
    watch = Recorder()
    streamed = streamed_by(engine, settings_in(tmp_path, data={"max_train_samples": 10}), watch)
    assert len(streamed.dataset.train) == 10
    assert watch.notes == ["stopped reading at data.max_train_samples = 10"]
    assert streamed.counts["read"] < 80


def test_the_checkpoint_of_other_settings_is_refused(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    streamed = streamed_by(engine, settings)
    trained_by(engine, settings, streamed, tmp_path, Recorder())
    with pytest.raises(TrainingError, match="of a run with other samples, settings or base"):
        trained_by(engine, settings, streamed, tmp_path, Recorder(), run_key="another")


def test_a_job_throws_the_checkpoint_of_other_settings_away_and_begins_anew(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    streamed = streamed_by(engine, settings)
    expected = trained_by(engine, settings, streamed, tmp_path, Recorder())
    watch = Recorder()
    trained = trained_by(engine, settings, streamed, tmp_path, watch, run_key="another", discards_other=True)
    assert "beginning anew" in watch.notes[0]
    assert weights_of(trained.adapter) == weights_of(expected.adapter)
    assert newest(tmp_path)["run_key"] == "another"


def test_a_checkpoint_of_other_layers_or_rates_is_of_another_run(engine: Engine, tmp_path: Path) -> None:
    streamed = streamed_by(engine, settings_in(tmp_path))
    recipes: list[dict[str, Any]] = [
        {}, {"lora": {"layers": "top-half"}}, {"lora": {"use_rslora": True}}, {"training": {"loraplus_lr_ratio": 16}}
    ]  # fmt: skip
    keys = {recipe_key(settings_in(tmp_path, **recipe), streamed, engine, None) for recipe in recipes}
    assert len(keys) == len(recipes)


def test_a_checkpoint_belongs_to_its_recipe_and_not_to_how_it_was_computed(engine: Engine, tmp_path: Path) -> None:
    def key(loss: Mapping[str, Any] | None = None, **training: Any) -> str:
        settings = settings_in(tmp_path, training=training, loss=loss or {})
        return recipe_key(settings, streamed, engine, None)

    streamed = streamed_by(engine, settings_in(tmp_path))
    assert key() == key(token_budget=512) == key(save_steps=7) == key(preset="small")
    assert key() != key(seed=1)
    assert len({key(), key({"sampled_tokens": 128}), key({"vocabulary": "all"})}) == 3
    assert key({"vocabulary": "all"}) == key({"vocabulary": "all", "sampled_tokens": 128})
    assert key() != recipe_key(settings_in(tmp_path), streamed, engine, "a parent's key")


def test_a_run_goes_on_with_other_threads_and_another_budget_and_says_so(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    streamed = streamed_by(engine, settings)
    with pytest.raises(JobCancelledError):
        trained_by(engine, settings, streamed, tmp_path, Recorder(cancel_after_steps=5))
    state = max((tmp_path / "checkpoints").iterdir()) / "state.json"
    elsewhere = json.loads(state.read_text())
    elsewhere["made_with"] |= {"threads": 64, "dtype": "bfloat16"}
    _rewrite(state, elsewhere)
    watch = Recorder()
    roomier = settings_in(tmp_path, training={"token_budget": 256})
    trained = trained_by(engine, roomier, streamed, tmp_path, watch)
    assert watch.notes[0] == "going on from the checkpoint at step 5"
    assert "dtype was bfloat16 and is float32" in watch.notes[1]
    assert "threads was 64 and is " in watch.notes[1]
    assert "token_budget was 128 and is 256" in watch.notes[1]
    assert "may differ in its last bits" in watch.notes[1]
    assert trained.result.token_budget == 256


def test_a_budget_that_was_halved_stays_so_when_a_run_goes_on(engine: Engine, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    streamed = streamed_by(engine, settings)
    with pytest.raises(JobCancelledError):
        trained_by(engine, settings, streamed, tmp_path, Recorder(cancel_after_steps=5))
    state = max((tmp_path / "checkpoints").iterdir()) / "state.json"
    _rewrite(state, json.loads(state.read_text()) | {"token_budget": 64})
    watch = Recorder()
    assert trained_by(engine, settings, streamed, tmp_path, watch).result.token_budget == 64
    assert watch.notes[1:] == ["the token budget stays at 64, because memory was short before"]


def _rewrite(state: Path, content: dict[str, Any]) -> None:
    """Another state in a checkpoint that is whole."""
    state.write_text(json.dumps(content))
    manifest = state.with_name("manifest.json")
    described = json.loads(manifest.read_text())
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    described["state.json"] = {"size_bytes": state.stat().st_size, "sha256": digest}
    manifest.write_text(json.dumps(described))


@pytest.mark.parametrize("cancel_at", [101, 118, 135, 152])
def test_a_run_stopped_anywhere_in_a_step_goes_on_from_the_step_before(
    engine: Engine, tmp_path: Path, cancel_at: int
) -> None:
    settings = settings_in(tmp_path, training={"token_budget": 32, "save_steps": 99})
    streamed = streamed_by(engine, settings)
    whole = Recorder()
    expected = trained_by(engine, settings, streamed, tmp_path / "whole", whole)
    assert whole.asked > 30 * len(whole.told)  # that often in a micro-step: there is more than one to a step
    stopped, resumed = Recorder(cancel_at=cancel_at), Recorder()
    with pytest.raises(JobCancelledError):
        trained_by(engine, settings, streamed, tmp_path, stopped)
    trained = trained_by(engine, settings, streamed, tmp_path, resumed)
    assert resumed.notes == [f"going on from the checkpoint at step {stopped.told[-1].step}"]
    assert weights_of(trained.adapter) == weights_of(expected.adapter)


class Asking(Recorder):
    """A watch that asks the engine for an answer whenever training has paused, and the answer before has come."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._asked_for: list[Generation] = []

    def cancelled(self) -> bool:
        if not self._asked_for or self._asked_for[-1]._ended():
            self._asked_for.append(self._ask())
        return super().cancelled()

    def _ask(self) -> Generation:
        sampling = Sampling(max_new_tokens=2, min_new_tokens=2, return_tokens=True, do_sample=True, seed=3)
        return self._engine.submit(Ask(self._engine.renderer.text_ids("Hello"), sampling))

    def outside(self) -> str:
        return repr(self._ask().result(30).choices)

    def inside(self) -> list[str]:
        return [repr(generation.result(30).choices) for generation in self._asked_for]


@pytest.mark.parametrize("preset", ["fast", "small"])
def test_requests_are_answered_in_the_middle_of_a_step_and_neither_side_differs(
    engine: Engine, tmp_path: Path, preset: str
) -> None:
    settings = settings_in(tmp_path, training={"preset": preset, "max_steps": 2}, lora={"dropout": 0.3})
    streamed, watch = streamed_by(engine, settings), Asking(engine)
    alone = trained_by(engine, settings, streamed, tmp_path / "alone", Recorder())
    outside = watch.outside()
    among = trained_by(engine, settings, streamed, tmp_path / "among", watch)
    assert weights_of(among.adapter) == weights_of(alone.adapter)
    assert set(watch.inside()) == {outside}
    assert len(watch.inside()) > 2 * len(watch.told)


@pytest.mark.parametrize("fault", [OSError("no space left"), SafetensorError("no space left")])
def test_a_checkpoint_that_cannot_be_written_costs_no_run(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(checkpoint_module, "save_checkpoint", full)
    settings, watch = settings_in(tmp_path), Recorder()
    trained = trained_by(engine, settings, streamed_by(engine, settings), tmp_path, watch)
    assert trained.result.steps == len(watch.told)
    assert watch.notes[0] == f"no checkpoint could be written at step 2 ({type(fault).__name__}); going on"
    assert "no space left" in caplog.text
