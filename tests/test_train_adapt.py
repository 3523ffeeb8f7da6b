"""The trainer's command line: its options reach the run, its errors are one line, its folder is whole."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter_service import train_adapt
from adapter_service.adapters import check_files
from adapter_service.cli.train_options import parser, request_of, settings_of
from adapter_service.jobs.train_request import OVERRIDES, TrainRequest, settings_for
from adapter_service.settings import Settings
from tests.jobs.test_train_request import OTHER_VALUES


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Forty short texts."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"one {n} two {n} three"}) + "\n" for n in range(40)))
    return path


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_STATE_DIR", str(tmp_path / "state"))


def _arguments(base: Path, source: Path, output: Path) -> list[str]:
    options = f"--num_epochs 1 --per_device_train_batch_size 4 --lora_r 4 --model_name_or_path {base}"
    return [*options.split(), "--streaming_source", str(source), "--output_dir", str(output)]


def test_a_run_leaves_an_adapter_with_metadata_and_card(tiny_base_folder: Path, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert train_adapt.main(_arguments(tiny_base_folder, pairs, output)) == 0
    assert check_files(output) >= {"adapter_config.json", "README.md", "training_metadata.json"}
    metadata = json.loads((output / "training_metadata.json").read_text())
    assert (metadata["lora_r"], metadata["batch_size"], metadata["epochs"]) == (4, 4, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts.jsonl"]


def described(folder: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((folder / "training_metadata.json").read_text())
    return metadata


def test_training_further_begins_with_the_given_adapter_in_its_shape(
    tiny_base_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train_adapt.main([*_arguments(tiny_base_folder, pairs, first), "--lora_alpha", "9"]) == 0
    further = [*_arguments(tiny_base_folder, pairs, second), "--init_adapter", str(first)]
    assert train_adapt.main(further) == 0
    assert (described(second)["lora"]["r"], described(second)["lora"]["alpha"]) == (4, 9)
    assert described(second)["result"]["first_loss"] != described(first)["result"]["first_loss"]
    assert train_adapt.main([*further, "--output_dir", str(tmp_path / "third"), "--lora_r", "5"]) == 1
    assert not (tmp_path / "third").exists()


def test_a_stopped_run_goes_on_from_its_checkpoint_and_tells_the_whole(
    tiny_base_folder: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*_arguments(tiny_base_folder, pairs, tmp_path / "out"), "--save_steps", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(train_adapt, "_judge", _interrupted)
        assert train_adapt.main(arguments) == 130
    assert "go on with --resume" in capsys.readouterr().err
    pairs.unlink()  # all of it was streamed, and is not asked for again
    assert train_adapt.main([*arguments, "--resume"]) == 0
    metadata = described(tmp_path / "out")
    assert metadata["samples_seen"] == metadata["num_examples"] == metadata["result"]["samples"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_run_is_not_resumed_with_another_adapter_to_begin_with(
    tiny_base_folder: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = (
        [*_arguments(tiny_base_folder, pairs, tmp_path / name), "--save_steps", "4"] for name in ("first", "second")
    )
    assert train_adapt.main(first) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train_adapt, "_judge", _interrupted)
        assert train_adapt.main(second) == 130
    assert train_adapt.main([*second, "--resume", "--init_adapter", str(tmp_path / "first")]) == 1
    assert "of a run with other samples" in capsys.readouterr().err


def test_a_run_that_is_stopped_before_anything_was_streamed_offers_no_resume(
    tiny_base_folder: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_adapt, "stream", _interrupted)
    assert train_adapt.main(_arguments(tiny_base_folder, pairs, tmp_path / "out")) == 130
    assert "nothing is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--streaming_source", "multilingual_corpsu"], "did you mean 'multilingual_corpus'"),
        (["--learning_rate", "7"], "learning_rate"),
        (["--lora_r", "0"], "request, lora"),
        (["--use_8bit", "True", "--use_4bit", "True"], "keep one"),
        (["--resume"], "no checkpoint"),
        (["--init_adapter", "nowhere"], "no adapter folder"),
        (["--streaming_source", "gone.jsonl", "--model_name_or_path", "package:none"], "unknown source 'gone.jsonl'"),
        (["--languages", "klingon"], "klingon"),
        (["--learning_rate", "nan"], "learning_rate"),
        (["--max_seq_length", "64", "--token_budget", "32"], "'token_budget' (32)"),
        (["--model_name_or_path", "package:gemma3"], "package:gemma3-270m"),
        (["--output_dir", f"{__file__}/out"], "cannot be made"),
        (["--output_dir", "/proc/out"], "cannot be made"),
    ],
)
def test_a_fault_ends_with_one_line_and_status_one(
    options: list[str],
    said: str,
    tiny_base_folder: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*_arguments(tiny_base_folder, pairs, tmp_path / "out"), *options]
    assert train_adapt.main(arguments) == 1
    written = capsys.readouterr().err
    assert said in written
    assert len(written.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_with_one_line_that_says_how_to_go_on(
    tiny_base_folder: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = _arguments(tiny_base_folder, pairs, tmp_path / "out")
    with monkeypatch.context() as disk:
        disk.setattr("adapter_service.train_adapt.sync_folder", full)
        assert train_adapt.main(arguments) == 1
    assert "error (storage_error): the disk of --output_dir took no more" in capsys.readouterr().err
    assert train_adapt.main([*arguments, "--resume"]) == 0
    assert check_files(tmp_path / "out")


def test_a_folder_that_holds_something_is_not_written_over(
    tiny_base_folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert train_adapt.main(_arguments(tiny_base_folder, pairs, tmp_path / "out")) == 1
    assert "not empty" in capsys.readouterr().err


def test_every_field_of_a_request_has_its_option_and_reaches_the_settings() -> None:
    given = [word for field, value in OTHER_VALUES.items() for word in _written(field, value)]
    request = request_of(parser().parse_args(given))
    assert request == TrainRequest(adapter="command-line", **OTHER_VALUES)
    settings = settings_for(request, Settings())
    for field, (section, key) in OVERRIDES.items():
        assert getattr(getattr(settings, section), key) == OTHER_VALUES[field], field


def _written(field: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return ["--streaming_source" if field == "source" else f"--{field}", *map(str, values)]


def test_there_is_no_other_option() -> None:
    options = {action.dest for action in parser()._actions}
    others = {"help", "model_name_or_path", "output_dir", "use_8bit", "use_4bit", "config", "sources", "resume"}
    assert options == OVERRIDES.keys() | others | {"init_adapter"}


def test_options_have_the_older_names_too() -> None:
    options = parser().parse_args(["--max-samples", "7", "--use_rslora", "--target_modules", "all-linear"])
    assert request_of(options).given() == {
        "adapter": "command-line",
        "max_train_samples": 7,
        "use_rslora": True,
        "target_modules": "all-linear",
    }


def test_another_base_is_not_looked_for_at_the_revision_of_the_configured_one(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.yaml"
    config.write_text("model: {base: mine/one, revision: abc}\n")
    options = parser().parse_args(["--config", str(config), "--model_name_or_path", "mine/two"])
    model = settings_of(options).model
    assert (model.base, model.revision) == ("mine/two", None)


def test_an_unknown_option_is_refused_and_the_script_runs_as_a_file() -> None:
    command = [sys.executable, train_adapt.__file__, "--learningrate", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--learningrate" in ran.stderr
