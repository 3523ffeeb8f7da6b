"""The trainer's command line: its options reach the run, its errors are one line, its folder is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adapter_service import train_adapt
from adapter_service.adapters import check_files
from adapter_service.jobs.train_request import OVERRIDES


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


def test_training_further_begins_with_the_given_adapter(tiny_base_folder: Path, pairs: Path, tmp_path: Path) -> None:
    arguments = _arguments(tiny_base_folder, pairs, tmp_path / "first")
    assert train_adapt.main(arguments) == 0
    first = json.loads((tmp_path / "first" / "training_metadata.json").read_text())["result"]["first_loss"]
    again = [*_arguments(tiny_base_folder, pairs, tmp_path / "second"), "--init_adapter", str(tmp_path / "first")]
    assert train_adapt.main(again) == 0
    assert json.loads((tmp_path / "second" / "training_metadata.json").read_text())["result"]["first_loss"] != first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--streaming_source", "multilingual_corpsu"], "did you mean 'multilingual_corpus'"),
        (["--learning_rate", "7"], "learning_rate"),
        (["--lora_r", "0"], "request, lora"),
        (["--use_8bit", "True", "--use_4bit", "True"], "choose one"),
        (["--resume"], "no checkpoint"),
        (["--init_adapter", "nowhere"], "no adapter folder"),
        (["--model_name_or_path", "package:gemma3"], "package:gemma3-270m"),
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


def test_a_folder_that_holds_something_is_not_written_over(
    tiny_base_folder: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert train_adapt.main(_arguments(tiny_base_folder, pairs, tmp_path / "out")) == 1
    assert "not empty" in capsys.readouterr().err


def test_every_option_of_the_trainer_is_a_field_of_the_request() -> None:
    assert set(train_adapt._REQUEST_OPTIONS.values()) <= OVERRIDES.keys()
    options = {action.dest for action in train_adapt._parser()._actions}
    others = {"help", "model_name_or_path", "output_dir", "use_8bit", "use_4bit", "config", "sources", "resume"}
    assert options == train_adapt._REQUEST_OPTIONS.keys() | others | {"init_adapter"}


def test_an_unknown_option_is_refused_and_the_script_runs_as_a_file() -> None:
    command = [sys.executable, train_adapt.__file__, "--learningrate", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--learningrate" in ran.stderr
