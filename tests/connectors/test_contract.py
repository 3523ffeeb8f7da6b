"""The contract of `connectors/base.py`, held for every kind, file format, shuffle and filter."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapter_service.connectors.base import Connector, StreamObserver
from adapter_service.connectors.reading_ahead import ReadingAhead
from adapter_service.connectors.registry import open_source
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.settings import SourceEntry
from tests.connectors.conftest import open_kind
from tests.connectors.s3_bucket import Bucket
from tests.connectors.test_qdrant import fill_folder

Rows = list[dict[str, str]]
Make = Callable[..., Connector]

FORMATS = ["jsonl", "json", "csv", "text"]
FILES = [
    *(f"{file_format}{suffix}" for file_format in FORMATS for suffix in ("", ".gz")),
    "jsonl.zst",
    "csv.zst",
    "parquet",
]
SUFFIX = {"text": "txt"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gz": gzip.compress, "zst": zstandard.compress}
ROWS: Rows = [
    {"text": f'नमूना {i}, "quoted" [{i}] {{}}' + ("\nsecond line" if i % 5 == 0 else ""), "language": tag}
    for i, tag in enumerate(["hi", "ta", "hi", "bn", "en"] * 5)
]


def encoded(rows: Rows, file_format: str) -> bytes:
    if file_format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if file_format == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    if file_format == "text":
        return "".join(" ".join(row["text"].splitlines()) + "\n" for row in rows).encode()
    if file_format == "parquet":
        columns = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), columns, row_group_size=7)
        return columns.getvalue()
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=["text", "language"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


@pytest.fixture(
    params=[
        "memory",
        *(f"{kind}-{file}" for kind in ("local", "http") for file in FILES),
        "hub-parquet",
        "folder-jsonl",
        "s3",
        "qdrant",
        "mix",
    ]
)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens the same rows as each kind and format has them."""
    kind, _, file = request.param.partition("-")
    file_format, _, compression = file.partition(".")
    name = ".".join(filter(None, ("train", SUFFIX.get(file_format, file_format), compression)))

    def make_it(rows: Rows, **options: Any) -> Connector:
        if kind == "s3":
            return open_bucket(request.getfixturevalue("bucket"), rows, **options)
        if kind in {"memory", "mix", "qdrant"}:
            return open_without_files(kind, rows, tmp_path, **options)
        content = COMPRESS[compression](encoded(rows, file_format))
        # Text knows no language of its own.
        options |= {"defaults": {"language": "hi"}} if file_format == "text" else {}
        if kind == "http":
            url = request.getfixturevalue("server").put(f"/{name}", content)
            return open_kind("http", url=url, allow_private=True, **options)
        if kind == "hub":
            request.getfixturevalue("hub").put("me/corpus", {name: content})
            return open_kind("hf", dataset="me/corpus", **options)
        (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus" / name).write_bytes(content)
        if kind == "folder":
            return open_kind("hf", folder=tmp_path, path="corpus", **options)
        return open_kind("local", folder=tmp_path, path=f"corpus/{name}", **options)

    return make_it


def open_bucket(bucket: Bucket, rows: Rows, **options: Any) -> Connector:
    """The rows in several objects of several formats below one prefix."""
    bucket.put("texts/1.jsonl", encoded(rows[:9], "jsonl"))
    bucket.put("texts/2.parquet", encoded(rows[9:20], "parquet"))
    bucket.put("texts/3.csv.gz", gzip.compress(encoded(rows[20:], "csv")))
    return open_kind("s3", prefix="texts/", **bucket.options, **options)


def open_without_files(kind: str, rows: Rows, folder: Path, **options: Any) -> Connector:
    if kind == "mix":
        return open_mix_of_one(rows, **options)
    if kind == "memory":
        return open_kind("memory", items=rows, **options)
    fill_folder(folder / "folder", rows, "corpus")
    return open_kind("qdrant", folder=folder, path="folder", collection="corpus", page_points=4, **options)


def open_mix_of_one(rows: Rows, *, seed: int = 0, shuffle_buffer: int = 0, **options: Any) -> Connector:
    """A mix keeps the order of each source alone; `test_mixing.py` has those of several."""
    part = SourceEntry(name="part", kind="memory", options={"items": rows})
    only = options.pop("only", ())
    mix = SourceEntry(name="corpus", kind="mix", options={"sources": {"part": 1}, **options}, parts={"part": part})
    return open_source(mix, languages=only, seed=seed, shuffle_buffer=shuffle_buffer)


def assert_resumes_after_every_cursor(connector: Connector) -> None:
    pairs = [(json.loads(json.dumps(cursor)), sample) for cursor, sample in connector.stream()]
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=cursor)) == pairs[i + 1 :]


@pytest.mark.parametrize("only", [(), ("Hindi",)])
@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_a_stream_resumes_exactly_after_every_cursor(make: Make, shuffle_buffer: int, only: tuple[str, ...]) -> None:
    connector = make(ROWS, shuffle_buffer=shuffle_buffer, only=only, seed=3)
    assert len(list(connector.stream())) >= (10 if only else 25)
    assert_resumes_after_every_cursor(connector)


def test_every_record_gives_its_text_once_and_in_order(make: Make) -> None:
    texts = [sample.completion.split() for _, sample in make(ROWS).stream()]
    assert texts == [row["text"].split() for row in ROWS]


def test_a_limit_holds_across_a_resume(make: Make) -> None:
    connector = make(ROWS, max_samples=7)
    assert len(list(connector.stream())) == 7
    assert_resumes_after_every_cursor(connector)


def test_the_counts_of_two_attempts_add_up_to_those_of_one(make: Make) -> None:
    connector = make(ROWS, shuffle_buffer=4, only=("hi",), seed=1)
    whole = Tally("corpus", max_skipped_fraction=0)
    cursors = [cursor for cursor, _ in tallied(connector, whole)]

    for stop in range(1, len(cursors)):
        first = Tally("corpus", max_skipped_fraction=0)
        stream = tallied(connector, first)
        for _ in range(stop):
            next(stream)
        second = Tally("corpus", max_skipped_fraction=0)
        second.go_on_from(first.counts())
        list(tallied(connector, second, after=cursors[stop - 1]))
        assert second.counts() == whole.counts()


class Heard:
    """An observer that writes down what it is told, and by which part."""

    def __init__(self, told: list[Any], part: str = "") -> None:
        self._told = told
        self._part = part

    def accepted(self, language: str | None) -> None:
        self._told.append((self._part, language))

    def skipped(self, origin: str, reason: str, language: str | None = None) -> None:
        self._told.append((self._part, origin, reason, language))

    def part(self, name: str) -> StreamObserver:
        self._told.append(("part", name))
        return Heard(self._told, name)


@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_a_stream_that_is_read_ahead_tells_and_gives_the_same_in_the_same_order(
    make: Make, shuffle_buffer: int
) -> None:
    connector = make(ROWS, shuffle_buffer=shuffle_buffer, only=("hi",), seed=1)
    orders: list[list[Any]] = []
    for each in (connector, ReadingAhead(connector)):
        order: list[Any] = []
        for pair in each.stream(None, Heard(order)):
            order.append(pair)  # noqa: PERF402 - the observer adds to it too
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(orders[0]) > 25


def test_a_check_tells_of_the_first_sample(make: Make) -> None:
    assert "नमूना 0" in make(ROWS).check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)),
    block=st.integers(0, 5),
    file_format=st.sampled_from(["jsonl", "json", "csv", "parquet"]),
)
def test_any_text_comes_through_and_resumes(tmp_path: Path, texts: list[str], block: int, file_format: str) -> None:
    rows = [{"text": text, "language": "hi"} for text in texts]
    (tmp_path / f"a.{file_format}").write_bytes(encoded(rows, file_format))
    connector = open_kind("local", folder=tmp_path, path=f"a.{file_format}", shuffle_buffer=block)
    wanted = sorted(text.strip() for text in texts if text.strip())
    if wanted or not texts:
        assert sorted(sample.completion for _, sample in connector.stream()) == wanted
        assert_resumes_after_every_cursor(connector)
