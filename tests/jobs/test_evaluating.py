"""Measuring: numbers of both sides, answers to the whole conversation, files as they lie on disk."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_service.adapters.artifact import check_files, write_manifest
from adapter_service.engine.answering import answer_together
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles, default_sampling
from adapter_service.engine.turn import Turn
from adapter_service.errors import JobCancelledError, NotReadyError
from adapter_service.jobs.evaluating import measure, reread
from adapter_service.lora.adapter import Adapter, LoraConfig
from adapter_service.lora.folder import write_folder
from adapter_service.model_utils import BaseModel
from adapter_service.samples import Message, Sample
from adapter_service.settings import Settings
from adapter_service.training import evaluation
from adapter_service.training.dataset import Dataset
from adapter_service.training.forward import MicroBatch, completion_states
from adapter_service.training.gate import decide
from tests.jobs.bench import toy_settings
from tests.jobs.test_learning import Asking, Recorder
from tests.waiting import READY_SECONDS

SYSTEM = Message("system", "You are terse.")


def held_out(engine: Engine, *samples: Sample) -> Dataset:
    return Dataset(holdout=list(samples), holdout_rendered=[engine.renderer.render(s, 500) for s in samples])


def pair(prompt: str, completion: str, *before: Message) -> Sample:
    return Sample((*before, Message("user", prompt), Message("assistant", completion)))


PAIRS = [pair(f"a{number}", "alpha") for number in range(6)]


def an_adapter(engine: Engine, b: float = 0.05) -> Adapter:
    def make(turn: Turn) -> Adapter:
        adapter = Adapter.fresh(LoraConfig(r=2), turn.layers, seed=1)
        for low_rank in adapter.pairs.values():
            low_rank.b.data.fill_(b)
        return adapter

    return engine.run(make)


@pytest.fixture
def settings() -> Settings:
    return toy_settings(gate={"generate_samples": 2})


def test_an_adapter_and_the_base_are_measured_on_the_same_samples(engine: Engine, settings: Settings) -> None:
    dataset = held_out(engine, *PAIRS)
    base = measure(settings, dataset, engine, Recorder(), None)
    adapted = measure(settings, dataset, engine, Recorder(), an_adapter(engine))
    assert (
        base.token_counts == adapted.token_counts == [sample.completion_tokens for sample in dataset.holdout_rendered]
    )
    assert base.loss_sums != adapted.loss_sums
    assert len(base.chrf) == len(adapted.chrf) == 2


def test_plain_text_has_no_prompt_and_so_no_answer(engine: Engine, settings: Settings) -> None:
    text = Sample((Message("assistant", "once upon a time"),))
    assert measure(settings, held_out(engine, text), engine, Recorder(), None).chrf == []


def test_answers_follow_the_whole_conversation(engine: Engine, settings: Settings) -> None:
    """What the base says after system message and prompt is here the reference, and so is met exactly."""
    context = [SYSTEM, Message("user", "a1")]
    sampling = default_sampling(settings.serving, None, max_new_tokens=96)
    (answer,) = engine.run(lambda turn: answer_together(turn, [context], [sampling], None))
    dataset = held_out(engine, pair("a1", answer, SYSTEM))
    assert measure(settings, dataset, engine, Recorder(), None).chrf == [100.0]


def test_weights_that_are_not_finite_are_measured_without_an_answer(engine: Engine, settings: Settings) -> None:
    broken = measure(settings, held_out(engine, *PAIRS), engine, Recorder(), an_adapter(engine, math.nan))
    assert (broken.weights_finite, list(broken.chrf)) == (False, [0.0, 0.0])
    base = measure(settings, held_out(engine, *PAIRS), engine, Recorder(), None)
    assert decide(broken, base, settings.gate).verdict == "rejected"


def test_measuring_stops_when_the_job_is_cancelled(engine: Engine, settings: Settings) -> None:
    watch = Recorder(cancel_at=2)
    with pytest.raises(JobCancelledError, match="while evaluating"):
        measure(settings, held_out(engine, *PAIRS), engine, watch, None)
    assert watch.asked == 2


def test_requests_are_answered_at_the_layers_of_scores_and_answers_and_neither_side_differs(
    engine: Engine, settings: Settings
) -> None:
    dataset, adapter, watch = held_out(engine, *PAIRS), an_adapter(engine), Asking(engine)
    alone, outside = measure(settings, dataset, engine, Recorder(), adapter), watch.outside()
    assert measure(settings, dataset, engine, watch, adapter) == alone
    assert set(watch.inside()) == {outside}
    assert len(watch.inside()) > 10


def test_measuring_ends_between_two_layers_with_the_engine(
    tiny_base: BaseModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(lambda note: tiny_base)
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    passes: list[str] = []

    def while_the_engine_stops(model: Any, batch: MicroBatch) -> torch.Tensor:
        stopping = threading.Thread(target=engine.stop, args=[0.0])
        stopping.start()
        stopping.join()
        passes.append("begun")
        hidden = completion_states(model, batch)
        passes.append("whole")
        return hidden

    monkeypatch.setattr(evaluation, "completion_states", while_the_engine_stops)
    with pytest.raises(NotReadyError, match="stopping"):
        measure(settings, held_out(engine, *PAIRS), engine, Recorder(), None)
    assert passes == ["begun"]


def test_files_are_read_anew_although_the_version_is_resident(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    dataset, files = held_out(engine, *PAIRS), AdapterFiles("anew", tmp_path, "codes@2")
    write_folder(an_adapter(engine), tmp_path, base_name="tiny")
    write_manifest(tmp_path, check_files(tmp_path))
    candidate = measure(settings, dataset, engine, Recorder(), files)
    same = reread(settings, dataset, engine, Recorder(), candidate, files)
    assert same.reloaded_loss == pytest.approx(candidate.loss_per_token, rel=1e-6)
    write_folder(an_adapter(engine, b=0.5), tmp_path, base_name="tiny")
    other = reread(settings, dataset, engine, Recorder(), candidate, files)
    assert "the files are not what was trained" in decide(other, candidate, settings.gate).reasons[-1]
