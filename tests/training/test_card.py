"""The card and the metadata beside an adapter's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("vocabulary", "row"), [("all", "| loss per token |"), ("sampled", "| sampled loss per token |")]
)
def test_a_card_is_utf_8_whatever_the_machine_s_language(tmp_path: Path, vocabulary: str, row: str) -> None:
    program = """
        import locale, sys
        from pathlib import Path
        from adapter_service.training.card import write_card

        assert locale.getencoding() != "UTF-8"
        names = ("base_model", "adapter_type", "num_examples", "samples_seen", "num_epochs", "held_out", "lora_r")
        described = {**dict.fromkeys([*names, "lora_alpha"], 1), "training_data": "\\u0939"}
        described["result"] = {**dict.fromkeys(["tokens", "completion_tokens", "steps"], 1)}
        described["result"] |= {"first_loss": 2.0, "last_loss": 1.0, "seconds": 3.0, "loss_vocabulary": sys.argv[2]}
        described["lora"] = {"layers": "top-half", "use_rslora": True}
        training = ["per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"]
        described["training"] = dict.fromkeys([*training, "loraplus_lr_ratio"], 1)
        write_card(Path(sys.argv[1]), described)
    """
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), vocabulary]
    done = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "trained on | ह: 1 samples" in card
    assert row in card
    described = json.loads((tmp_path / "training_metadata.json").read_text(encoding="utf-8"))
    assert described["training_data"] == "ह"
