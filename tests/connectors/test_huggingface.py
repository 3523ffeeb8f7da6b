from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import (
    EmptySourceError,
    SettingsError,
    SourceError,
    SourceFormatError,
    SourceUnreachableError,
)
from tests.connectors.conftest import open_kind
from tests.connectors.hub_server import COMMITS, HubServer
from tests.connectors.server import FileServer

OpenHub = Callable[..., Connector]
KEY, VARIABLE = "s3cret", "${CORPUS_TOKEN}"
ROOT = Path(__file__).resolve().parents[2]


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), out, row_group_size=2)
    return out.getvalue()


def texts(connector: Connector) -> list[str]:
    return [sample.completion for _, sample in connector.stream()]


CARD = b"""---
configs:
- config_name: hi
  data_files:
  - split: train
    path: hi/train.jsonl
  - split: validation
    path: hi/validation.jsonl
- config_name: ta
  data_files: ta/*.parquet
---
"""
IN_CONFIGS = {
    "README.md": CARD,
    "hi/train.jsonl": jsonl("hi one", "hi two"),
    "hi/validation.jsonl": jsonl("hi three"),
    "ta/a.parquet": parquet("ta one", "ta two", "ta three"),
    "ta/b.parquet": parquet("ta four", "ta five"),
}


def open_hub(dataset: str = "me/corpus", **options: Any) -> Connector:
    return open_kind("hf", dataset=dataset, **{"backoff_seconds": 0, **options})


def open_folder(folder: Path, files: dict[str, bytes], **options: Any) -> Connector:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return open_kind("hf", folder=folder.parent, path=folder.name, **options)


def test_a_split_of_a_config_is_read_file_by_file(hub: HubServer) -> None:
    hub.put("me/corpus", IN_CONFIGS)
    assert texts(open_hub(config="ta")) == ["ta one", "ta two", "ta three", "ta four", "ta five"]
    assert texts(open_hub(config="hi", split="validation")) == ["hi three"]
    assert not [path for path in hub.fetched() if "hi/train" in path]


def test_a_folder_is_read_as_the_hub_would_be(tmp_path: Path) -> None:
    assert texts(open_folder(tmp_path / "corpus", IN_CONFIGS, config="hi")) == ["hi one", "hi two"]


def test_a_check_tells_commit_split_and_files(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one")})
    assert open_hub().check().startswith("me/corpus at aaaaaaaaaaaa, split train: 1 file(s), first train.jsonl;")


def test_a_stream_goes_on_at_the_commit_that_it_began_with(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one", "two", "three")})
    (cursor, _), *_ = open_hub().stream()
    hub.put("me/corpus", {"train.jsonl": jsonl("changed", "altogether")})
    rest = open_hub().stream(after=json.loads(json.dumps(cursor)))
    assert [sample.completion for _, sample in rest] == ["two", "three"]
    assert texts(open_hub()) == ["changed", "altogether"]
    assert texts(open_hub(revision=COMMITS[0])) == ["one", "two", "three"]


def test_a_resumed_stream_leaves_the_files_before_alone(hub: HubServer) -> None:
    hub.put("me/corpus", IN_CONFIGS)
    cursor, _ = list(open_hub(config="ta").stream())[3]
    hub.requests.clear()
    assert [sample.completion for _, sample in open_hub(config="ta").stream(after=cursor)] == ["ta five"]
    assert not [path for path in hub.fetched() if "ta/a.parquet" in path]


def test_bad_records_are_counted_and_the_rest_is_read(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one") + b'{"text": "half\n\xff\xfe\n' + jsonl("two")})
    tally = Tally("corpus", max_skipped_fraction=0.6)
    assert [sample.completion for _, sample in tallied(open_hub(), tally)] == ["one", "two"]
    assert tally.counts()["reasons"] == {"not valid JSON": 1, "not UTF-8": 1}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("train.jsonl.gz", gzip.compress(jsonl("one", "two"))),
        ("train.jsonl.zst", zstandard.compress(jsonl("one", "two"))),
        ("train.json", jsonl("one", "two")),
        ("train.json", b'\n [{"text": "one"}, {"text": "two"}]'),
        ("train.csv", b"text\none\ntwo\n"),
        ("train.tsv", b"text\tlanguage\none\thi\ntwo\thi\n"),
        ("train.txt", b"one\ntwo\n"),
        ("data/train-00000-of-00001.parquet", parquet("one", "two")),
    ],
)
def test_each_format_that_a_dataset_may_have_is_read(tmp_path: Path, path: str, content: bytes) -> None:
    assert texts(open_folder(tmp_path / "corpus", {path: content})) == ["one", "two"]


@pytest.mark.parametrize(
    ("card", "content", "wanted"),
    [
        (b"  sep: ';'\n", b"text;language\none;hi\n", ["one"]),
        (b"  quoting: 3\n", b"text\none\n", "csv files read with quoting=3"),
    ],
)
def test_how_a_card_has_its_files_read_is_heeded_or_refused(
    tmp_path: Path, card: bytes, content: bytes, wanted: list[str] | str
) -> None:
    files = {
        "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n" + card + b"---\n",
        "a.csv": content,
    }
    connector = open_folder(tmp_path / "corpus", files)
    if isinstance(wanted, list):
        assert texts(connector) == wanted
    else:
        with pytest.raises(SourceFormatError, match=wanted):
            texts(connector)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "has several configs; say `config:` one of hi, ta"),
        ({"config": "bn"}, "has no config 'bn'; there are: hi, ta"),
        ({"config": "hi", "split": "test"}, "has no split 'test'; there are: train, validation"),
        ({"dataset": "me/none"}, "knows no dataset 'me/none' that may be read without a token"),
        ({"revision": "v2"}, "has no revision 'v2'; give a branch, tag or commit"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(hub: HubServer, options: dict[str, str], said: str) -> None:
    hub.put("me/corpus", IN_CONFIGS)
    with pytest.raises(SourceError, match=said):
        texts(open_hub(**options))


def test_a_private_dataset_needs_its_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one")}, token=KEY)
    monkeypatch.setenv("CORPUS_TOKEN", KEY)
    assert texts(open_hub(token=VARIABLE)) == ["one"]
    monkeypatch.setenv("CORPUS_TOKEN", "wrong")
    with pytest.raises(SourceUnreachableError, match="may be read with this token"):
        texts(open_hub(token=VARIABLE))


def test_a_gated_dataset_says_where_its_terms_are(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one")}, token=KEY, is_gated=True)
    with pytest.raises(SourceUnreachableError, match=rf"is gated; accept its terms at {hub.url}/datasets/me/corpus"):
        texts(open_hub())


def test_a_token_of_this_machine_that_no_source_names_is_not_used(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    hub.put("me/corpus", {"train.jsonl": jsonl("one")})
    assert texts(open_hub()) == ["one"]
    assert not [headers for _, _, headers in hub.requests if "authorization" in headers]


@pytest.mark.parametrize("files", [{"corpus.py": b"raise SystemExit"}, {"corpus.py": b"", "train.jsonl": jsonl("a")}])
def test_a_dataset_with_a_script_is_refused_and_the_conversion_named(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.put("me/corpus", files)
    with pytest.raises(SourceFormatError, match=r"script of its own \(corpus.py\).*refs/convert/parquet"):
        texts(open_hub())


def test_a_folder_with_a_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="by a script, and code of others"):
        texts(open_folder(tmp_path / "corpus", {"corpus.py": b"raise SystemExit", "train.jsonl": jsonl("a")}))


def test_files_of_another_kind_are_refused(hub: HubServer) -> None:
    hub.put("me/corpus", {"train/a.png": b"\x89PNG"})
    with pytest.raises(SourceFormatError, match=r"of the kind 'imagefolder'.*are read.*refs/convert/parquet"):
        texts(open_hub())


def test_packed_files_are_refused(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl.xz": b"\xfd7zXZ"})
    with pytest.raises(SourceFormatError, match="has its files packed"):
        texts(open_hub())


def test_a_dataset_without_data_says_so(hub: HubServer) -> None:
    hub.put("me/corpus", {"README.md": b"nothing yet"})
    with pytest.raises(EmptySourceError, match="has no data files of a known format"):
        texts(open_hub())


def test_a_folder_without_data_does_not_say_where_it_lies(tmp_path: Path) -> None:
    with pytest.raises(EmptySourceError, match="dataset 'corpus' has no data files") as caught:
        texts(open_folder(tmp_path / "corpus", {"notes.xyz": b""}))
    assert str(tmp_path) not in str(caught.value)


def test_a_card_that_names_files_of_this_machine_does_not_get_them(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("s3cret")
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/secret.txt\n---\n"
    hub.put("me/corpus", {"README.md": card.encode(), "train.txt": b"one\n"})
    with pytest.raises(SourceFormatError, match="Data files don't belong to me/corpus"):
        texts(open_hub())


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("place", ["webhdfs://{host}/a.jsonl", "zip://a.jsonl::webhdfs://{host}/a.zip"])
@pytest.mark.parametrize("option", ["data_files: {place}", "data_files:\n  - split: train\n    path: [{place}]"])
def test_an_address_that_a_card_names_is_asked_for_nothing(
    hub: HubServer, server: FileServer, tmp_path: Path, card: str, place: str, option: str
) -> None:
    place = place.format(host=server.url.removeprefix("http://"))
    configs = f"configs:\n- config_name: default\n  {option.format(place=place)}\n"
    files = {card: (f"---\n{configs}---\n" if card == "README.md" else configs).encode(), "a.jsonl": jsonl("one")}
    hub.put("me/corpus", files)
    for opened in (open_hub(), open_folder(tmp_path / "corpus", files)):
        with pytest.raises(SourceFormatError, match=r"names '(webhdfs|zip)://.*outside of the dataset"):
            texts(opened)
    assert not server.requests


@pytest.mark.parametrize("card", ["README.md", "dataset_infos.json"])
def test_a_card_that_is_too_large_is_not_fetched(hub: HubServer, monkeypatch: pytest.MonkeyPatch, card: str) -> None:
    from adapter_service.connectors import hub as hub_module

    monkeypatch.setattr(hub_module, "MAX_CARD_BYTES", len(CARD) - 1)
    hub.put("me/corpus", {card: CARD, "train.jsonl": jsonl("one")})
    with pytest.raises(SourceFormatError, match=rf"its card \({card}\) has \d+ bytes"):
        texts(open_hub())
    assert not hub.fetched()


def test_a_card_that_cannot_be_fetched_is_not_done_without(hub: HubServer) -> None:
    card = b"---\nconfigs:\n- config_name: default\n  data_files: right.jsonl\n---\n"
    hub.put("me/corpus", {"README.md": card, "right.jsonl": jsonl("right"), "wrong.jsonl": jsonl("wrong")})
    hub.refuses = "README.md"
    with pytest.raises(SourceUnreachableError, match="does not give its card"):
        texts(open_hub())


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("configs: [", r"its card \(README.md\) cannot be read"),
        ("configs:\n- config_name: a\n  data_files: &within [*within]", "Expected data_files in YAML"),
        (
            "configs:\n- config_name: a\n  data_files: ../secret.txt",
            "names 'secret.txt', which lies outside of the folder",
        ),
    ],
)
def test_a_card_that_makes_no_sense_says_so(tmp_path: Path, card: str, said: str) -> None:
    (tmp_path / "secret.txt").write_text("s3cret")
    files = {"README.md": f"---\n{card}\n---\n".encode(), "a.txt": b"one\n"}
    with pytest.raises(SourceFormatError, match=said):
        texts(open_folder(tmp_path / "corpus", files))


def test_files_of_a_folder_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(jsonl("one"))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.jsonl").symlink_to("../blob")
    assert texts(open_kind("hf", folder=tmp_path, path="corpus")) == ["one"]


def test_what_an_earlier_look_saw_is_not_taken_for_what_is_there(hub: HubServer) -> None:
    hub.put("me/corpus", {"first.jsonl": jsonl("one")})
    assert texts(open_hub()) == ["one"]
    hub.datasets["me/corpus"].commits[0] = {"second.jsonl": jsonl("two")}
    assert texts(open_hub()) == ["two"]


def test_a_busy_hub_is_asked_again(hub: HubServer) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one")})
    hub.busy = 2
    assert texts(open_hub(retry_attempts=2)) == ["one"]
    hub.busy = 100
    with pytest.raises(SourceUnreachableError, match=r"answered 503 \(2 attempts\)"):
        texts(open_hub(retry_attempts=1))


def test_a_stream_that_is_left_has_fetched_a_part_and_stored_next_to_nothing(hub: HubServer, tmp_path: Path) -> None:
    content = jsonl(*(f"{i} " + "word " * 200 for i in range(5000)))
    hub.put("me/corpus", {"README.md": b"a card", "train.jsonl": content})
    assert len(list(itertools.islice(open_hub().stream(), 100))) == 100
    assert hub.fetched().count(f"{COMMITS[0]}/train.jsonl") == 2
    stored = sum(path.stat().st_size for path in (tmp_path / "hub-cache").rglob("*") if path.is_file())
    assert stored < 10_000 < len(content)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either `dataset`"),
        ({"dataset": "a/b", "path": "c"}, "give either `dataset`"),
        ({"dataset": "../folder"}, "is no id of the Hub"),
        ({"dataset": "a/b", "split": "train[:10%]"}, "say `max_samples`"),
        ({"path": "c", "revision": "main"}, "a folder has neither"),
    ],
)
def test_a_faulty_entry_is_refused_when_it_is_opened(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_kind("hf", **options)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachableError, match="there is no folder 'none'"):
        texts(open_kind("hf", folder=tmp_path, path="none"))


def test_a_hub_out_of_reach_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(SourceUnreachableError, match=r"http://127.0.0.1:1 cannot be reached: .* \(2 attempts\)"):
        texts(open_hub(retry_attempts=1))


def test_a_process_told_to_stay_offline_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnreachableError, match="HF_HUB_OFFLINE forbids asking it; unset that"):
        texts(open_hub())
    assert not hub.requests


READ = """
from adapter_service.connectors.registry import open_source
from adapter_service.settings import SourceEntry
entry = SourceEntry(name="corpus", kind="hf", options={"dataset": "me/corpus"})
print(*(sample.completion for _, sample in open_source(entry).stream()))
"""


def test_the_hub_is_the_one_that_the_environment_names(hub: HubServer, tmp_path: Path) -> None:
    hub.put("me/corpus", {"train.jsonl": jsonl("one", "two")})
    environ = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"{hub.url}/"}
    ran = subprocess.run([sys.executable, "-c", READ], env=environ, cwd=ROOT, check=True, capture_output=True)
    assert ran.stdout == b"one two\n"


SAVED = {"text": ["one", "two", "three"], "language": ["hi", "ta", "hi"]}


def test_a_folder_that_save_to_disk_wrote_is_read_and_resumed(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(SAVED).save_to_disk(tmp_path / "corpus", num_shards=2)
    connector = open_kind("hf", folder=tmp_path, path="corpus")
    pairs = list(connector.stream())
    assert [sample.completion for _, sample in pairs] == SAVED["text"]
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=json.loads(json.dumps(cursor)))) == pairs[i + 1 :]


def test_a_split_of_several_that_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    import datasets

    part = datasets.Dataset.from_dict(SAVED)
    datasets.DatasetDict({"train": part, "test": part.select([2, 1])}).save_to_disk(tmp_path / "corpus")
    assert texts(open_kind("hf", folder=tmp_path, path="corpus", split="test")) == ["three", "two"]
    with pytest.raises(SourceFormatError, match="has no split 'dev'; there are: train, test"):
        texts(open_kind("hf", folder=tmp_path, path="corpus", split="dev"))
