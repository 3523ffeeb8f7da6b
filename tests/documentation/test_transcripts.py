"""The README's commands do what they show, against the real service on the small base."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from adapter_service.documentation import README
from adapter_service.documentation.transcripts import Command, Session, commands, with_outputs
from tests.api.test_start import serving
from tests.conftest import SMALL_BASE

TEXT = """
```console
$ echo one \\
>   two
old
$ echo three
```
"""


@pytest.fixture(scope="module")
def session(small_base: object, bases_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The service with a live default adapter; its jobs take one step and are not judged."""
    state = tmp_path_factory.mktemp("readme")
    (state / "bases").symlink_to(bases_dir)
    small = {
        "ADAPTER_STATE_DIR": str(state),
        "ADAPTER_MODEL__BASE": SMALL_BASE,
        "ADAPTER_TRAINING__MAX_STEPS": "1",
        "ADAPTER_GATE__ENABLED": "false",
        "ADAPTER_GATE__GENERATE_SAMPLES": "1",
        "ADAPTER_COMMANDS__BASE_MODELS": json.dumps({"package:gemma3-270m": SMALL_BASE}),
    }
    environment = {**os.environ, **small}
    with serving(environment) as (_, url):
        session = Session(url, environment)
        body = {"adapter": "multilingual", "source": "multilingual_corpus", "max_train_samples": 20}
        session.job_id = requests.post(f"{url}/adapter/train-lite", json=body, timeout=10).json()["job_id"]
        session.wait_for_job()
        yield session


def shape(output: str) -> object:
    """The keys of an answer, whatever it says; of other outputs only that there is something."""
    try:
        return json.loads(output).keys()
    except ValueError:
        return bool(output)


@pytest.mark.model
def test_the_example_for_openais_client_runs_as_it_stands(session: Session) -> None:
    (example,) = re.findall(r"```python\n(from openai import .*?)```", README.read_text(), re.DOTALL)
    program = example.replace("http://localhost:8100", session.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    models, answer, *_ = done.stdout.splitlines()
    assert "multilingual" in models
    assert answer.startswith("multilingual@1 ")
    form = done.stdout[done.stdout.rindex("{") :]
    assert json.loads(form).keys() == {"city", "country"}


@pytest.mark.model
@pytest.mark.timeout(900)
def test_every_command_of_the_readme_works_and_answers_as_it_is_shown(session: Session) -> None:
    readme = README.read_text()
    now = with_outputs(readme, session)
    shown, found = ([(command.text, shape(command.output)) for command in commands(text)] for text in (readme, now))
    assert found == shown


def test_commands_and_their_outputs_are_told_apart() -> None:
    assert commands(TEXT) == [Command("echo one \\\n  two\n", "old\n"), Command("echo three\n", "")]


def test_outputs_are_written_anew_below_the_commands() -> None:
    once = with_outputs(TEXT, Session("http://127.0.0.1:1"))
    assert once == TEXT.replace("old", "one two").replace("$ echo three\n", "$ echo three\nthree\n")
    assert with_outputs(once, Session("http://127.0.0.1:1")) == once


def test_the_address_of_the_readme_stands_for_that_of_the_service() -> None:
    session = Session("http://127.0.0.1:4711")
    assert session.run(Command("echo localhost:8100 | tee /dev/stderr\n", "")) == "localhost:8100\n"


def test_a_job_that_a_command_made_is_known_to_the_next() -> None:
    session = Session("http://127.0.0.1:1")
    session.run(Command("""echo '{"job_id":"job_01ABC"}'\n""", ""))
    assert session.run(Command("echo $JOB_ID\n", "")) == "job_01ABC\n"
