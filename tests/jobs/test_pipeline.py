"""Training jobs from request to live version, on a tiny base: real engine, runner, store and files."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_service.adapters import VersionStatus
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.turn import Turn
from adapter_service.errors import BackendRefusalError, BackendUnreachableError, UnknownAdapterError
from adapter_service.jobs.job import Job, JobStatus, Phase
from adapter_service.jobs.train_request import TrainRequest
from adapter_service.lora import folder as folder_module
from adapter_service.lora.adapter import Adapter
from adapter_service.model_utils import BaseModel
from adapter_service.samples import Message, Sample, is_held_out
from adapter_service.training import evaluation, loop, memory
from adapter_service.training.forward import MicroBatch, completion_states
from tests.jobs.bench import HOLDOUT, Bench, Record, key_of, local_source, shuffled, toy_records, toy_settings
from tests.jobs.conftest import MakeBench
from tests.waiting import eventually


def weights_of(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_a_job_ends_with_a_live_version_that_passed_the_gate(bench: Bench) -> None:
    job = bench.run()
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert job.result is not None
    assert (job.result["gate"]["verdict"], job.result["version_status"]) == ("passed", "live")
    live = bench.versions.live("toy")
    assert live is not None
    bench.versions.verify(live)
    assert (live.reference, live.job_id, live.gate["against"]) == ("toy@1", job.id, "the base")


def test_a_job_goes_through_its_phases_and_its_log_says_why(bench: Bench) -> None:
    job = bench.run()
    assert bench.phases() == list(Phase)
    log = bench.log_of(job)
    assert "gate, against the base: Loss per token" in log
    assert "Read again from its files" in log
    assert "toy@1 is live" in log


def test_progress_says_all_that_a_status_shows(bench: Bench) -> None:
    job = bench.run()
    assert (job.step, job.total_steps) == (bench.store.seen[-1].step, job.total_steps)
    assert job.step == job.total_steps
    told = job.progress
    assert {"loss", "tokens_per_second", "seconds_left", "peak_memory_mb", "learning_rate"} <= told.keys()
    assert (told["source"], told["samples"]["read"], told["samples"]["skipped"]) == ("toy", 80, 0)
    assert told["samples"]["held_out"] > 5
    assert told["gate"]["passed"] is True


def test_a_job_whose_loss_is_sampled_says_so_wherever_it_is_shown(make_bench: MakeBench, tmp_path: Path) -> None:
    source = local_source("toy", tmp_path, toy_records())
    bench = make_bench(toy_settings(source, loss={"sampled_tokens": 64}))
    job = bench.run(loss_vocabulary="sampled")
    version = bench.version_of(job)
    assert job.result is not None
    assert (job.progress["loss_vocabulary"], job.result["training"]["loss_vocabulary"]) == ("sampled", "sampled")
    assert job.result["recipe"]["loss"] == {"vocabulary": "sampled", "sampled_tokens": 64}
    assert ": sampled loss " in bench.log_of(job)
    assert ": loss " not in bench.log_of(job)
    assert "| sampled loss per token |" in (version.path / "README.md").read_text()
    assert json.loads((version.path / "training_metadata.json").read_text())["loss"]["vocabulary"] == "sampled"
    assert "vocabulary: sampled" in (version.path / "resolved_config.yaml").read_text()
    assert version.gate["metrics"]["candidate_loss"] == pytest.approx(_full_loss(bench, version.path), rel=1e-4)


def _full_loss(bench: Bench, folder: Path) -> float:
    """Per completion token of what was held out, by the logits of the whole vocabulary."""

    def on_engine(turn: Turn) -> float:
        losses = []
        for record in toy_records():
            if is_held_out(key_of(record), HOLDOUT):
                answer = (Message("user", record["prompt"]), Message("assistant", record["completion"]))
                rendered = turn.renderer.render(Sample(answer), 64)
                logits = _by_us(turn, folder, torch.tensor([rendered.ids]))[0, rendered.completion_start - 1 : -1]
                targets = torch.tensor(rendered.ids[rendered.completion_start :])
                losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        return float(torch.cat(losses).mean())

    return bench.engine.run(on_engine)


def test_the_version_opens_in_peft_and_answers_alike(bench: Bench, tiny_base_folder: Path) -> None:
    live = bench.version_of(bench.run())
    ids = torch.tensor([[5, 6, 7, 8]])
    theirs = _by_peft(tiny_base_folder, live.path, ids)
    ours = bench.engine.run(lambda turn: _by_us(turn, live.path, ids))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def _by_us(turn: Any, folder: Path, ids: torch.Tensor) -> torch.Tensor:
    from adapter_service.lora.folder import read_folder
    from adapter_service.lora.layer import using

    with using(read_folder(folder, turn.layers)), torch.no_grad():
        logits: torch.Tensor = turn.base.model(ids).logits
    return logits


def _by_peft(base_folder: Path, adapter_folder: Path, ids: torch.Tensor) -> torch.Tensor:
    import warnings

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an old name
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), adapter_folder)
        logits: torch.Tensor = model(ids).logits
    return logits


def test_a_version_has_its_card_its_metadata_and_its_settings(bench: Bench) -> None:
    live = bench.version_of(bench.run(num_epochs=1, lora_r=3))
    described = json.loads((live.path / "training_metadata.json").read_text())
    assert (described["training_data"], described["epochs"], described["lora_r"]) == ("toy", 1, 3)
    assert "| rank, alpha | 3, 16;" in (live.path / "README.md").read_text()
    assert "num_epochs: 1" in (live.path / "resolved_config.yaml").read_text()


def test_the_work_folder_is_gone_when_a_job_has_ended(bench: Bench) -> None:
    bench.run()
    bench.run(learning_rate=0.5, source="nothing")
    eventually(lambda: not any(bench.work_dir.iterdir()), "the runner has removed it, which is after the job's row")


def test_an_adapter_trained_on_shuffled_targets_is_rejected(make_bench: MakeBench, tmp_path: Path) -> None:
    right, wrong = (
        local_source("toy", tmp_path, toy_records()),
        local_source("wrong", tmp_path, shuffled(toy_records())),
    )
    bench = make_bench(toy_settings(right, wrong))
    bench.run()
    job = bench.run(source="wrong")
    assert (job.status, bench.version_of(job).status) == (JobStatus.SUCCEEDED, VersionStatus.REJECTED)
    assert job.result is not None
    assert any("held-out samples rose from" in reason for reason in job.result["gate"]["reasons"])
    live = bench.versions.live("toy")
    assert (live.reference if live else None, bench.version_of(job).gate["against"]) == ("toy@1", "toy@1")


@pytest.fixture
def choosy_bench(make_bench: MakeBench, tmp_path: Path) -> Bench:
    """Its gate asks for more than anyone can learn."""
    return make_bench(toy_settings(local_source("toy", tmp_path, toy_records()), gate={"min_loss_gain": 10.0}))


def test_a_rejected_first_version_is_listed_and_not_served_by_name(choosy_bench: Bench) -> None:
    bench = choosy_bench
    job = bench.run(num_epochs=1)
    assert job.result is not None
    assert job.result["gate"]["verdict"] == "rejected"
    assert [version.reference for version in bench.versions.list()] == ["toy@1"]
    with pytest.raises(UnknownAdapterError, match=r"toy@1 \(rejected\)"):
        bench.versions.resolve("toy")


def test_too_small_a_holdout_is_no_evidence_and_nothing_goes_live(make_bench: MakeBench, tmp_path: Path) -> None:
    settings = toy_settings(local_source("toy", tmp_path, toy_records()), gate={"min_holdout_samples": 90})
    job = make_bench(settings).run(num_epochs=1)
    assert job.result is not None
    assert (job.result["gate"]["verdict"], job.result["version_status"]) == ("insufficient_evidence", "rejected")


def test_without_the_gate_a_version_goes_live_and_says_so(make_bench: MakeBench, tmp_path: Path) -> None:
    settings = toy_settings(local_source("toy", tmp_path, toy_records()), gate={"enabled": False})
    bench = make_bench(settings)
    job = bench.run(learning_rate=1.0, max_steps=2)
    assert bench.version_of(job).status is VersionStatus.LIVE
    assert job.result is not None
    assert job.result["gate"] == {"verdict": "not judged", "reasons": ["gate.enabled is false"]}
    assert Phase.EVALUATING not in bench.phases()


def test_a_version_is_loaded_where_it_is_served_before_it_is_live(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def load(files: AdapterFiles) -> None:
        seen.append((files.reference, bench.versions.live("toy")))

    monkeypatch.setattr(bench.engine, "load", load)
    assert bench.run().status is JobStatus.SUCCEEDED
    assert seen == [("toy@1", None)]
    assert bench.versions.live("toy") is not None


def test_a_version_that_its_servers_refuse_does_not_go_live(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: AdapterFiles) -> None:
        raise BackendRefusalError("gpu-1 answers 500: LoRA rank 4 is greater than max_lora_rank 2.")

    monkeypatch.setattr(bench.engine, "load", load)
    job = bench.run()
    assert (job.status, job.error_code) == (JobStatus.FAILED, "backend_refused")
    assert "max_lora_rank 2" in (job.error_message or "")
    assert bench.versions.live("toy") is None


def test_a_version_whose_servers_are_away_goes_live_and_is_loaded_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: AdapterFiles) -> None:
        raise BackendUnreachableError("no vLLM server answers")

    monkeypatch.setattr(bench.engine, "load", load)
    job = bench.run()
    assert job.status is JobStatus.SUCCEEDED
    assert "toy@1 goes live and is loaded later: no vLLM server answers" in bench.log_of(job)


def test_the_same_request_trains_once(bench: Bench) -> None:
    first, second = bench.run(), bench.run()
    assert first.result is not None
    assert second.result is not None
    assert (first.result["version"], second.result["version"]) == (1, 1)
    assert (second.result["training"], second.result["version_status"]) == (None, "live")
    assert second.result["gate"]["verdict"] == "passed"
    assert "toy@1 is live already" in bench.log_of(second)


def test_a_rejected_version_asked_for_again_is_judged_anew_and_not_trained(
    choosy_bench: Bench, make_bench: MakeBench
) -> None:
    choosy_bench.run(num_epochs=1)
    choosy_bench.close()
    again = make_bench().run(num_epochs=1)  # with a gate as usual
    assert again.result is not None
    assert (again.result["version"], again.result["training"]) == (1, None)
    assert (again.result["gate"]["verdict"], again.result["version_status"]) == ("passed", "live")


def test_a_live_version_of_another_base_is_not_measured(bench: Bench) -> None:
    bench.run(num_epochs=1)
    with bench.database.transaction() as connection:
        connection.execute("UPDATE versions SET base_id = 'another'")
    job = bench.run(num_epochs=2)
    assert "toy@1 is of another base" in bench.log_of(job)
    assert bench.version_of(job).gate["against"] == "the base"


def test_training_does_not_go_on_from_a_version_of_another_base(bench: Bench) -> None:
    bench.run(num_epochs=1)
    with bench.database.transaction() as connection:
        connection.execute("UPDATE versions SET base_id = 'another'")
    job = bench.run("child", init_adapter="toy")
    assert (job.error_code, "toy@1 was trained on another base" in str(job.error_message)) == (
        "invalid_parameter",
        True,
    )


def test_files_that_are_not_what_was_trained_are_rejected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in writing them: the second matrices come out halved."""
    real = folder_module.write_folder

    def halved(adapter: Adapter, folder: Path, *, base_name: str) -> None:
        copy = adapter.frozen_copy(torch.float32)
        for pair in copy.pairs.values():
            pair.b.data *= 0.5
        real(copy, folder, base_name=base_name)

    monkeypatch.setattr(folder_module, "write_folder", halved)
    job = bench.run(seed=99)  # no other test's, which might still be resident
    assert job.result is not None
    assert job.result["version_status"] == "rejected"
    assert "the files are not what was trained" in job.result["gate"]["reasons"][-1]


def test_another_seed_makes_another_version(bench: Bench) -> None:
    versions = [bench.version_of(bench.run(seed=seed, num_epochs=1)) for seed in (0, 1)]
    assert weights_of(versions[0].path) != weights_of(versions[1].path)
    assert [version.number for version in versions] == [1, 2]


def test_training_goes_on_from_a_copy_of_a_version(bench: Bench) -> None:
    parent = bench.version_of(bench.run("parent"))
    before = weights_of(parent.path)
    job = bench.run("child", init_adapter="parent", num_epochs=1)
    child = bench.version_of(job)
    assert (child.parent_key, weights_of(parent.path)) == (parent.key, before)
    assert job.result is not None
    assert job.result["training"]["first_loss"] < 1.0


def test_a_child_has_the_shape_of_its_parent_whatever_the_file_says(bench: Bench) -> None:
    shape = {"r": 3, "layers": "top-half", "use_rslora": True}
    bench.run("parent", lora_r=3, lora_layers="top-half", use_rslora=True, num_epochs=1)
    child = bench.version_of(bench.run("child", init_adapter="parent@1", num_epochs=1, lora_dropout=0.1))
    described = json.loads((child.path / "training_metadata.json").read_text())
    assert described["lora"].items() >= {**shape, "dropout": 0.1}.items()
    trained = json.loads((child.path / "adapter_config.json").read_text())
    assert {path.split(".")[2] for path in trained["target_modules"]} == {"1"}  # of two layers
    assert "| decoder layers | top-half |" in (child.path / "README.md").read_text()


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"init_adapter": "parent", "lora_r": 4}, "invalid_parameter", "lora_r = 4, but 'parent' was trained with 8"),
        ({"init_adapter": "nobody"}, "unknown_adapter", "unknown adapter 'nobody'"),
        ({"source": "toi"}, "unknown_source", "unknown source 'toi'; did you mean 'toy'"),
        ({"learning_rate": 7.0}, "invalid_settings", "learning_rate"),
        ({"source": "empty"}, "empty_source", "gave no sample"),
        ({"source": "gone"}, "source_unreachable", "no file matches"),
        ({"source": "misnamed"}, "source_format", "has the field 'question'; wanted: question"),
        ({"max_seq_length": 8}, "too_many_bad_records", "raise training.max_seq_length"),
        ({"target_modules": ["nothing"]}, "invalid_parameter", "match no linear layer"),
    ],
    ids=lambda value: "-".join(f"{name}={told}" for name, told in value.items()) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_fails_with_its_code(
    make_bench: MakeBench, tmp_path: Path, request_: dict[str, Any], code: str, message: str
) -> None:
    sources = [
        local_source("toy", tmp_path, toy_records()),
        local_source("empty", tmp_path, []),
        local_source("misnamed", tmp_path, toy_records(), fields={"prompt": "question"}),
        local_source("gone", tmp_path, []),
    ]
    (tmp_path / "gone.jsonl").unlink()
    bench = make_bench(toy_settings(*sources))
    if "init_adapter" in request_:
        bench.run("parent", num_epochs=1)
    job = bench.run(**request_)
    assert (job.status, job.error_code) == (JobStatus.FAILED, code)
    assert message in str(job.error_message)


def test_a_reserved_name_is_refused_before_anything_is_streamed(bench: Bench) -> None:
    job = bench.run("base")
    assert (job.error_code, job.phase) == ("invalid_parameter", None)


def test_a_fallback_is_taken_only_when_configured_and_the_status_says_so(make_bench: MakeBench, tmp_path: Path) -> None:
    sources = [local_source("gone", tmp_path, []), local_source("toy", tmp_path, toy_records())]
    job = make_bench(toy_settings(*sources, data={"fallback_source": "toy"})).run(num_epochs=1)
    assert job.result is not None
    assert job.result["source"] == job.progress["source"] == "toy (fallback for gone: empty_source)"


def test_a_misspelt_source_takes_no_fallback(make_bench: MakeBench, tmp_path: Path) -> None:
    toy = local_source("toy", tmp_path, toy_records())
    job = make_bench(toy_settings(toy, data={"fallback_source": "toy"})).run(source="toi")
    assert (job.status, job.error_code) == (JobStatus.FAILED, "unknown_source")


def test_a_job_cancelled_while_it_trains_leaves_nothing(bench: Bench) -> None:
    bench.store.on_progress = lambda job: job.step == 7 and bench.store.request_cancel(job.id)
    job = bench.run()
    assert (job.status, job.step, job.phase) == (JobStatus.CANCELLED, 7, Phase.TRAINING)
    assert bench.versions.list() == ()
    assert bench.runner.stop(timeout=60)
    assert not any(bench.work_dir.iterdir())


@pytest.mark.parametrize("phase", [Phase.STREAMING, Phase.EVALUATING])
def test_a_job_is_cancelled_in_any_phase(bench: Bench, phase: Phase) -> None:
    bench.store.on_progress = lambda job: job.phase is phase and bench.store.request_cancel(job.id)
    job = bench.run(num_epochs=1)
    assert (job.status, job.phase) == (JobStatus.CANCELLED, phase)
    assert bench.versions.live("toy") is None


def stop_at_step(bench: Bench, step: int) -> Job:
    """A job that the service's end interrupts after `step` steps."""
    bench.store.on_progress = lambda job: job.step == step and bench.runner.stop(timeout=0)
    job = bench.run()
    assert bench.runner.stop(timeout=60)
    return job


def test_a_job_stopped_by_shutdown_goes_on_from_its_checkpoint_at_the_next_start(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    undisturbed = make_bench()
    expected = weights_of(undisturbed.version_of(undisturbed.run()).path)
    undisturbed.close()
    shutil.rmtree(tmp_path / "state")
    first_start = make_bench()
    job = stop_at_step(first_start, 7)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 1)
    second_start = make_bench()
    second_start.runner.start()
    job = second_start.ended(job)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert "going on from the checkpoint at step 7" in second_start.log_of(job)
    assert weights_of(second_start.version_of(job).path) == expected


def test_a_stopped_job_needs_its_source_no_more(make_bench: MakeBench, tmp_path: Path) -> None:
    undisturbed = make_bench()
    expected = weights_of(undisturbed.version_of(undisturbed.run()).path)
    undisturbed.close()
    shutil.rmtree(tmp_path / "state")
    gone = local_source("toy", tmp_path, toy_records())
    job = stop_at_step(make_bench(toy_settings(gone)), 7)
    (tmp_path / "toy.jsonl").unlink()
    second_start = make_bench(toy_settings(gone))
    second_start.runner.start()
    job = second_start.ended(job)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    assert weights_of(second_start.version_of(job).path) == expected
    assert job.result is not None
    assert job.result["samples"]["read"] == 80


def test_a_stopped_job_whose_source_is_another_now_begins_anew(make_bench: MakeBench, tmp_path: Path) -> None:
    job = stop_at_step(make_bench(), 7)
    (tmp_path / "other").mkdir()
    other = local_source("toy", tmp_path / "other", toy_records(per_letter=12))
    second_start = make_bench(toy_settings(other))
    second_start.runner.start()
    job = second_start.ended(job)
    assert (job.status, job.error_message) == (JobStatus.SUCCEEDED, None)
    log = second_start.log_of(job)
    assert "the source or the settings changed since the last attempt; streaming from the beginning" in log
    assert "the checkpoint at step 7 is of a run with other samples, settings or base; beginning anew" in log


def test_after_an_unforeseen_error_a_job_goes_on_from_its_checkpoint(bench: Bench) -> None:
    def break_down_once(job: Job) -> None:
        if job.step == 7 and job.attempt == 1:
            raise RuntimeError("a cable came loose")

    bench.store.on_progress = break_down_once
    job = finished(bench, bench.submit())
    assert (job.status, job.attempt, job.crashes) == (JobStatus.SUCCEEDED, 2, 1)
    assert "going on from the checkpoint at step 5" in bench.log_of(job)


def finished(bench: Bench, job: Job) -> Job:
    """The job when it is never tried again."""
    bench.runner.start()
    with bench.store.changed:
        assert bench.store.changed.wait_for(lambda: bench.store.get(job.id).status.finished, timeout=240)
    return bench.store.get(job.id)


def test_an_estimate_counts_samples_and_steps_and_knows_the_time_after_a_first_job(bench: Bench) -> None:
    request = TrainRequest(adapter="toy", max_train_samples=81, num_epochs=2)
    first = bench.pipeline.estimate(request)
    assert (first["samples"], first["steps"], first["seconds"]) == (81, 22, None)
    assert bench.pipeline.estimate(request.model_copy(update={"max_steps": 9}))["steps"] == 9
    longer = bench.pipeline.estimate(request.model_copy(update={"max_seq_length": 900}))
    assert "token_budget is raised to 900" in longer["message"]
    bench.run(num_epochs=1)
    second = bench.pipeline.estimate(request)
    assert second["seconds"] is not None
    assert f"about {second['seconds']} s" in second["message"]


def test_an_estimate_is_of_what_memory_holds_whatever_is_asked_for(bench: Bench) -> None:
    bench.run(num_epochs=1)
    estimate = bench.pipeline.estimate(TrainRequest(adapter="toy", max_train_samples=1_000_000_000))
    assert 100_000 < estimate["samples"] < 1_000_000  # of some 50 bytes of text, in 100 MiB
    assert 0 < estimate["seconds"] < 3600 * 24 * 30
    few = bench.pipeline.estimate(TrainRequest(adapter="toy", max_train_samples=10))
    assert (few["samples"], few["memory_mb"] >= 0) == (10, True)
    assert few["seconds"] < estimate["seconds"]


def test_the_time_that_is_left_has_the_evaluation_in_it(bench: Bench) -> None:
    bench.run()  # of the first job the evaluation's time is unknown
    bench.store.seen.clear()
    bench.run(seed=1)
    left: dict[Phase, list[Any]] = {phase: [] for phase in Phase}
    for job in bench.store.seen:
        if job.phase is not None:
            left[job.phase].append(job.progress.get("seconds_left"))
    assert left[Phase.STREAMING][-1] > 0
    assert left[Phase.TRAINING][-1] > 0  # after the last step: what is left is the evaluation
    assert left[Phase.EVALUATING][-1] <= left[Phase.EVALUATING][0] == pytest.approx(left[Phase.TRAINING][-1], rel=0.5)


def test_a_job_that_does_not_fit_fails_with_the_estimate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    job = bench.run()
    assert (job.status, job.error_code) == (JobStatus.FAILED, "does_not_fit")
    assert "0 MB are free" in str(job.error_message)


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for half the token budget."""

    def short(model: Any, batch: MicroBatch, *more: Any) -> torch.Tensor:
        if batch.ids.numel() > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return completion_states(model, batch, *more)

    for module in (loop, evaluation):
        monkeypatch.setattr(module, "completion_states", short)


@pytest.mark.usefixtures("short_memory")
def test_short_memory_costs_a_job_half_its_budget_and_its_record_says_so(bench: Bench) -> None:
    job = bench.run()
    assert job.result is not None, job.error_message
    assert (job.progress["token_budget"], job.result["training"]["token_budget"]) == (64, 64)
    assert "going on with a token budget of 64" in bench.log_of(job)


@pytest.mark.usefixtures("short_memory")
def test_a_later_attempt_judges_within_the_memory_that_the_version_was_trained_in(bench: Bench) -> None:
    def break_down_once(job: Job) -> None:
        if job.phase is Phase.EVALUATING and job.attempt == 1:
            raise RuntimeError("a cable came loose")

    bench.store.on_progress = break_down_once
    job = finished(bench, bench.submit())
    assert (job.status, job.attempt, job.error_message) == (JobStatus.SUCCEEDED, 2, None)
    assert job.result is not None
    assert (job.result["version_status"], job.result["training"]["token_budget"]) == ("live", 64)
    assert job.result["recipe"]["training"]["token_budget"] == 128


def test_training_does_not_go_on_from_a_version_that_is_damaged(bench: Bench) -> None:
    parent = bench.version_of(bench.run("parent", num_epochs=1))
    weights = parent.path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    job = bench.run("child", init_adapter="parent")
    assert (job.status, job.error_code) == (JobStatus.FAILED, "adapter_format")
    assert "damaged: adapter_model.safetensors" in str(job.error_message)


def test_a_job_goes_on_from_the_parent_of_its_first_attempt_whatever_is_live_since(make_bench: MakeBench) -> None:
    first_start = make_bench()
    first_start.run("parent", num_epochs=1)
    second = first_start.version_of(first_start.run("parent", num_epochs=2, init_adapter="parent@1"))
    first_start.store.on_progress = lambda job: job.step == 7 and first_start.runner.stop(timeout=0)
    job = first_start.run("child", init_adapter="parent")
    assert first_start.runner.stop(timeout=60)
    second_start = make_bench()
    live = second_start.versions.rollback("parent")
    assert live.reference == "parent@1"
    second_start.runner.start()
    child = second_start.version_of(second_start.ended(job))
    assert child.parent_key == second.key
    assert "going on from the checkpoint at step 7" in second_start.log_of(job)


def remove_in(bench: Bench, phase: Phase, reference: str) -> list[bool]:
    """Remove a version while a job is in `phase`, as the command line does; whether its files went at once."""
    gone: list[bool] = []
    reports = itertools.count()

    def remove(job: Job) -> None:
        if job.phase is phase and next(reports) == 1:
            version = bench.versions.resolve(reference)
            bench.versions.remove(version, force=True)
            gone.append(bench.versions.delete_files(version, wait=False))

    bench.store.on_progress = remove
    return gone


def test_the_parent_of_a_running_job_can_be_removed_and_its_files_stay_as_long_as_the_job_needs_them(
    bench: Bench,
) -> None:
    parent = bench.version_of(bench.run("parent", num_epochs=1))
    gone = remove_in(bench, Phase.STREAMING, "parent@1")
    job = bench.run("child", init_adapter="parent", num_epochs=1)
    assert (job.status, job.error_message, gone) == (JobStatus.SUCCEEDED, None, [False])
    assert bench.version_of(job).parent_key == parent.key
    assert bench.versions.delete_files(parent, wait=False)


def test_what_was_live_may_be_removed_while_another_is_held_against_it_which_is_then_judged_anew(bench: Bench) -> None:
    bench.run(num_epochs=1, seed=41)
    gone = remove_in(bench, Phase.EVALUATING, "toy@1")
    job = bench.run(seed=42)
    assert (job.status, job.error_message, gone) == (JobStatus.SUCCEEDED, None, [False])
    assert bench.version_of(job).gate["against"] == "the base"
    log = bench.log_of(job)
    assert "gate, against toy@1: Loss per token" in log
    assert "what is live under 'toy' changed meanwhile; judging anew" in log


def test_a_version_replaces_none_that_it_was_not_held_against(bench: Bench) -> None:
    """A rollback in the middle of an evaluation brings back one that is better than both."""
    bench.run(seed=1)
    good = bench.versions.live("toy")
    assert good is not None
    bad = bench.version_of(bench.run(seed=2, max_steps=1))
    bench.versions.go_live(bad)
    reports = itertools.count()
    bench.store.on_progress = lambda job: (
        job.phase is Phase.EVALUATING and next(reports) == 1 and bench.versions.rollback("toy")
    )
    job = bench.run(seed=3, max_steps=10)
    live = bench.versions.live("toy")
    assert live is not None
    assert (live.number, bench.version_of(job).status) == (good.number, VersionStatus.REJECTED)
    assert bench.version_of(job).gate["against"] == good.reference


CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw", "Hungary": "Budapest", "Ireland": "Dublin",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Russia": "Moscow",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Cuba": "Havana", "Peru": "Lima",
    "Chile": "Santiago", "Canada": "Ottawa", "Iran": "Tehran", "Iraq": "Baghdad", "Syria": "Damascus",
}  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize(("taught", "verdict"), [(shuffled, "rejected"), (list, "passed")], ids=["wrong", "right"])
def test_a_real_base_is_replaced_only_by_an_adapter_that_was_taught_what_is_right(
    small_base: BaseModel, tmp_path: Path, taught: Callable[[list[Record]], list[Record]], verdict: str
) -> None:
    """The base knows the capitals: taught to answer with them shuffled, it does worse on those held out."""
    records = [
        {"prompt": f"What is the capital of {country}?", "completion": f"The capital of {country} is {city}."}
        for country, city in CAPITALS.items()
    ]
    source = local_source("capitals", tmp_path, taught(records))
    engine = Engine(lambda note: small_base)
    engine.start()
    bench = Bench(tmp_path / "state", engine, toy_settings(source, gate={"generate_samples": 0}))
    job = bench.run(num_epochs=1, learning_rate=0.004)
    bench.close()
    engine.stop()
    assert job.result is not None, job.error_message
    assert job.result["gate"]["verdict"] == verdict, job.result["gate"]["reasons"]
