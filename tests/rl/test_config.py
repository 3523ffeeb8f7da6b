"""rl_config.yaml: the shipped one is complete, and faults are told all at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rl.collect import CONFIG
from rl.config import Config, read_config
from rl.errors import ConfigError


def config_of(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "rl_config.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_the_shipped_file_has_every_key_with_its_default_and_a_comment() -> None:
    shipped, defaults = read_config(CONFIG), Config()
    for name in ("model", "episodes", "cloud", "reward"):
        assert getattr(shipped, name) == getattr(defaults, name)
    document = yaml.safe_load(CONFIG.read_text())
    for name in ("model", "episodes", "cloud", "reward"):
        assert list(document[name]) == list(type(getattr(defaults, name)).__dataclass_fields__)
    lines = CONFIG.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"(  )?[a-z]\w*:", line) and "language" not in line]
    assert [lines[i] for i in keys if not lines[i - 1].lstrip().startswith("# ")] == []
    assert len(shipped.prompts) == 5


def test_prompts_are_texts_or_have_a_language(tmp_path: Path) -> None:
    config = config_of(tmp_path, "prompts: [Say hello, {prompt: Say bye, language: hi}]")
    assert [(prompt.prompt, prompt.language) for prompt in config.prompts] == [("Say hello", None), ("Say bye", "hi")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward: {lenght_weight: 1}", "unknown key 'reward.lenght_weight'; did you mean 'length_weight'?"),
        ("rewards: {}", "unknown key 'rewards'; did you mean 'reward'?"),
        ("cloud: {aws_secret_key: abc}", "secrets are not taken from files"),
        ("episodes: {max_episodes: 0}", "'episodes.max_episodes' is 0; a whole number from 1"),
        ("episodes: {max_episodes: yes}", "'episodes.max_episodes' is True; a whole number is wanted"),
        ("model: {temperature: hot}", "'model.temperature' is 'hot'; a number is wanted"),
        ("model: {temperature: .nan}", "a number from 0 to 2 is wanted"),
        ("model: {service_url: ' '}", "it is blank"),
        ("model: 5", "'model' is 5; a section with keys is wanted"),
        ("prompts: [{language: hi}]", "'prompts.0.prompt' is missing"),
        ("prompts: hello", "a list of texts"),
        ("reward: {target_characters: 10, target_characters: 20}", "'target_characters' stands there twice"),
        ("reward: {target_characters: 5000}", "more than 'reward.max_characters'"),
        ("- a", "holds no sections"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_a_fault_is_told_with_what_is_wanted(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, text)
    assert message in str(error.value)


def test_weights_that_are_all_zero_weigh_nothing(tmp_path: Path) -> None:
    zero = ", ".join(f"{name}_weight: 0" for name in ("length", "quality", "diversity", "script", "language"))
    with pytest.raises(ConfigError, match="every weight of 'reward' is 0"):
        config_of(tmp_path, f"reward: {{{zero}}}")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 3 faults") as error:
        config_of(tmp_path, "model: {temprature: 1, top_k: -1}\ncloud: {attempts: x}")
    assert "did you mean 'temperature'?" in str(error.value)


def test_a_secret_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(tmp_path, "cloud: {aws_secret_key: geheim123}")
    assert "geheim123" not in str(error.value)
