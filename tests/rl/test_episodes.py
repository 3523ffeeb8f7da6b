"""Rows of episodes: complete, of one shape, and readable by `datasets`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rl.episodes import Tokens, features, line_of, new_id, row_of
from rl.errors import RecordError
from rl.rewards import COMPONENTS, RewardSettings
from rl.shards import MANIFEST, ShardWriter, sealed_shards
from rl.uploading import Uploader
from tests.rl.conftest import There, episode

OLDER = {
    "run_id", "episode_index", "timestamp", "env_name", "prompt", "output", "reward", "latency_s", "meta",
}  # fmt: skip
FAITHFUL = {
    "schema_version", "episode_id", "session_id", "group_id", "adapter_id", "adapter_version", "base_sha",
    "tokenizer_sha", "template_sha", "prompt_token_ids", "completion_token_ids", "completion_logprobs",
    "sampling", "stop_reason", "reward_components", "reward_source", "reward_ts",
}  # fmt: skip
TOKENS = Tokens(
    prompt_token_ids=[1, 2], completion_token_ids=[3, 4, 5], completion_logprobs=[-0.5, -0.25, -1.5],
    sampling_logprobs=[0.0, 0.0, 0.0],
)  # fmt: skip


def row(**values: Any) -> dict[str, Any]:
    return row_of(episode(**values), 7, RewardSettings())


def test_a_row_has_the_older_fields_and_what_off_policy_training_needs() -> None:
    found = row(tokens=TOKENS, timestamp=datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC), latency_seconds=0.5)
    assert found.keys() >= OLDER | FAITHFUL
    assert (found["episode_index"], found["timestamp"]) == (7, "2026-01-02T03:04:05.006Z")
    assert found["completion_logprobs"] == [-0.5, -0.25, -1.5]
    assert list(found["reward_components"]) == list(COMPONENTS)


def test_every_row_has_the_same_fields_whatever_is_known() -> None:
    bare, full = row(), row(tokens=TOKENS, language="hi", language_ok=True, extra={"a": {"b": 1}}, reward=0.5)
    assert list(bare) == list(full)
    assert list(bare["meta"]) == list(full["meta"])
    assert list(bare["sampling"]) == list(full["sampling"])


def test_a_reward_that_is_given_stands_in_place_of_ours_and_says_so() -> None:
    ours, given = row(), row(reward=-3.5)
    assert (given["reward"], given["reward_source"]) == (-3.5, "given")
    assert (ours["reward_source"], ours["reward_components"]) == ("rl.rewards", given["reward_components"])


def test_answers_to_one_prompt_have_one_group() -> None:
    assert row(output="a")["group_id"] == row(output="b")["group_id"] != row(prompt="other")["group_id"]
    assert row(group_id="mine")["group_id"] == "mine"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"run_id": "../../etc"}, "the run id is"),
        ({"run_id": ""}, "the run id is"),
        ({"reward": float("inf")}, "not a finite number"),
        ({"tokens": Tokens(completion_token_ids=[1], completion_logprobs=[-1.0, -2.0])}, "differ in length"),
        ({"tokens": Tokens(completion_token_ids=[1], completion_logprobs=[float("nan")])}, "not a finite number"),
        ({"extra": {"a": float("nan")}}, "cannot be written as JSON"),
        ({"extra": {"a": object()}}, "cannot be written as JSON"),
    ],
)
def test_what_is_no_episode_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        row(**values)


def test_ids_are_26_characters_that_sort_by_time() -> None:
    ids = [new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(len(made) == 26 and made[0] <= "7" for made in ids)
    assert [made[:10] for made in ids] == sorted(made[:10] for made in ids)


def test_a_line_is_one_line_whatever_the_text() -> None:
    line = line_of(row(output="a\nb\r\u2028c"))
    assert line.count(b"\n") == 1
    assert json.loads(line)["output"] == "a\nb\r\u2028c"


def load(contents: list[bytes], folder: Path, **options: Any) -> list[dict[str, Any]]:
    """What `datasets` makes of files with these contents."""
    import datasets

    datasets.disable_progress_bars()
    folder.mkdir()
    files = [folder / f"{number}.jsonl" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    loaded = datasets.load_dataset(
        "json", data_files=[str(file) for file in files], split="train", cache_dir=str(folder / "cache"), **options
    )
    return list(loaded)


def uploaded(there: There, folder: Path, *shards: list[dict[str, Any]]) -> list[bytes]:
    """What lies at the destination, of each shard in turn."""
    for number, rows in enumerate(shards):
        writer = ShardWriter(folder, run_id=f"run-{number}")
        for one in rows:
            writer.append(one)
        writer.seal()
    assert Uploader(folder, there.destination).upload().failed == {}
    files = there.files()
    return [files[f"ep/{shard.name}"] for shard in sealed_shards(folder)]


BARE = {"output": "bare"}
FULL = {
    "output": "सुप्रभात", "tokens": TOKENS, "language": "hi", "language_ok": False, "extra": {"a": 1}, "reward": 1.0,
    "session_id": "s",
}  # fmt: skip


def test_datasets_reads_a_shard_as_it_was_uploaded(in_s3: There, tmp_path: Path) -> None:
    """Rows with tokens and without, with different things in `meta`, beside each other."""
    rows = [row(**BARE), row(**FULL), row(output="other", extra={"b": {"c": [1, "x"]}})]
    found = load(uploaded(in_s3, tmp_path / "runs", rows), tmp_path / "loaded")
    assert [one["output"] for one in found] == ["bare", "सुप्रभात", "other"]
    assert found[1]["completion_token_ids"] == [3, 4, 5]
    assert found[1]["completion_logprobs"] == [-0.5, -0.25, -1.5]
    assert found[0]["completion_token_ids"] is None
    assert json.loads(found[2]["meta"]["extra"]) == {"b": {"c": [1, "x"]}}


def test_half_a_character_keeps_no_reader_from_the_shard(in_folder: There, tmp_path: Path) -> None:
    rows = [row(output="half \ud83d", extra={"a": "\udc00"}), row(output="whole 😀")]
    found = load(uploaded(in_folder, tmp_path / "runs", rows), tmp_path / "loaded")
    assert [one["output"] for one in found] == ["half \ufffd", "whole 😀"]


def test_datasets_reads_any_shards_together_with_their_types(in_folder: There, tmp_path: Path) -> None:
    import datasets

    contents = uploaded(in_folder, tmp_path / "runs", [row(**BARE)], [row(**FULL)], [row(**BARE)])
    manifest = next(content for name, content in in_folder.files().items() if name.endswith(MANIFEST))
    types = datasets.Features.from_dict(json.loads(manifest)["features"])
    found = load(contents, tmp_path / "loaded", features=types)
    assert [one["completion_token_ids"] for one in found] == [None, [3, 4, 5], None]
    assert found == [json.loads(content) for content in contents]


def test_datasets_reads_a_shard_that_it_takes_in_several_bites(in_folder: There, tmp_path: Path) -> None:
    """It takes 10 MB at a time, and without types those of the first."""
    import datasets

    (content,) = uploaded(in_folder, tmp_path / "runs", [row(**BARE), row(**BARE), row(**FULL)])
    types = datasets.Features.from_dict(features())
    found = load([content], tmp_path / "loaded", features=types, chunksize=len(content) // 3)
    assert [one["completion_token_ids"] for one in found] == [None, None, [3, 4, 5]]
