from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SourceFormatError, SourceUnreachableError
from tests.connectors.conftest import Open, open_kind
from tests.connectors.server import FileServer


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, out, **{"row_group_size": 10, **options})
    return out.getvalue()


def read(connector: Connector) -> tuple[list[str], dict[str, int]]:
    """The texts, and the reasons for what was skipped."""
    tally = Tally("corpus", max_skipped_fraction=1.0)
    texts = [sample.completion for _, sample in tallied(connector, tally)]
    return texts, tally.counts()["reasons"]


TEXTS = [f"text {i}" for i in range(35)]


def test_rows_of_every_group_are_read_and_have_their_number_as_origin(open_local: Open) -> None:
    samples = [sample for _, sample in open_local("a.parquet", parquet({"text": TEXTS})).stream()]
    assert [sample.completion for sample in samples] == TEXTS
    assert samples[-1].origin == "corpus:a.parquet:35"


def test_a_column_may_lie_within_another(open_local: Open) -> None:
    pairs = [{"en": "Water", "ta": "நீர்", "hi": "पानी"}, {"en": "Fire", "ta": "நெருப்பு", "hi": None}]
    connector = open_local(
        "a.parquet",
        parquet({"translation": pairs}),
        format="parallel",
        fields={"source": "translation.en", "target": "translation.hi"},
        defaults={"language": "hi"},
    )
    assert read(connector) == (["पानी"], {"no field 'translation.hi'": 1})


def test_a_chat_is_a_list_in_a_column(open_local: Open) -> None:
    turns = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    assert read(open_local("a.parquet", parquet({"messages": turns}), format="chat")) == (["Hello"], {})


def test_only_what_the_mapping_wants_is_fetched(server: FileServer, open_http: Open) -> None:
    blobs = [bytes([i]) + i.to_bytes(4, "big") * 50_000 for i in range(35)]
    content = parquet({"text": TEXTS, "picture": blobs}, compression="none")
    server.put("/a.parquet", content)
    assert read(open_http("/a.parquet"))[0] == TEXTS
    ranges = [request["range"].removeprefix("bytes=").split("-") for request in server.requests]
    assert sum(int(last) - int(first) + 1 for first, last in ranges) < 150_000 < len(content) / 40


def test_a_resumed_stream_fetches_no_group_before_its_place(server: FileServer, open_http: Open) -> None:
    words = [f"{i} " + "word " * 20_000 for i in range(35)]
    server.put("/a.parquet", parquet({"text": words}, compression="none", use_dictionary=False))
    cursor, _ = list(open_http("/a.parquet").stream())[30]
    server.requests.clear()
    assert [sample.completion[:2] for _, sample in open_http("/a.parquet").stream(after=cursor)] == [
        "31",
        "32",
        "33",
        "34",
    ]
    firsts = [int(request["range"].removeprefix("bytes=").split("-")[0]) for request in server.requests]
    assert not [first for first in firsts if 4 < first < 2_000_000]


def test_connections_are_dropped_and_the_file_is_read_all_the_same(server: FileServer, open_http: Open) -> None:
    server.put("/a.parquet", parquet({"text": TEXTS}))
    server.faults.drops = 3
    assert read(open_http("/a.parquet"))[0] == TEXTS


def test_a_server_that_gives_only_the_whole_is_refused_unless_the_file_is_small(
    server: FileServer, open_http: Open
) -> None:
    server.faults.ranges = False
    server.put("/a.parquet", parquet({"text": TEXTS}))
    assert read(open_http("/a.parquet"))[0] == TEXTS
    server.put("/b.parquet", parquet({"text": ["x" * 2_000_000]}, compression="none"))
    with pytest.raises(SourceFormatError, match="needs a server that gives ranges"):
        read(open_http("/b.parquet"))


def test_a_wrong_field_name_is_told_with_the_columns(open_local: Open) -> None:
    content = parquet({"body": TEXTS, "language": ["hi"] * 35})
    with pytest.raises(SourceFormatError, match=r"'text'; wanted: text; found: body, language"):
        read(open_local("a.parquet", content))


def test_rows_that_cannot_be_used_are_counted(open_local: Open) -> None:
    raw = pa.array([b"one", b"\xff\xfe", b"x" * 5000, b"two"])
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    connector = open_local("a.parquet", parquet(pa.table({"text": text})), max_line_bytes=1000)
    reasons = {"not UTF-8": 1, "longer than 1000 bytes (max_line_bytes)": 1}
    assert read(connector) == (["one", "two"], reasons)


def test_a_value_that_python_does_not_have_costs_one_record(open_local: Open) -> None:
    turn = pa.struct({"role": pa.string(), "content": pa.string(), "at": pa.date32()})
    days = [1, 2**31 - 1, 3]
    chats = [[{"role": "assistant", "content": f"day {day}", "at": day}] for day in days]
    content = parquet(pa.table({"messages": pa.array(chats, pa.list_(turn))}))
    connector = open_local("a.parquet", content, format="chat")
    assert read(connector) == (["day 1", "day 3"], {"a value that cannot be read": 1})


def test_an_empty_table_has_no_records(open_local: Open) -> None:
    assert list(open_local("a.parquet", parquet({"text": pa.array([], pa.string())})).stream()) == []


CONTENT = parquet({"text": TEXTS})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[:-100], "cut short"),
        (b"", "begins with b''"),
        (b'{"text": "a"}\n', "not a Parquet file: it begins with"),
        (CONTENT[:-8] + (2**31).to_bytes(4, "little") + b"PAR1", "its footer of 2147483648 bytes is none"),
        (CONTENT[:-60] + b"\xff" * 52 + CONTENT[-8:], "it is damaged: write it again"),
        (CONTENT[:8] + b"\xff" * 40 + CONTENT[48:], "it is damaged: write it again"),
    ],
)
def test_a_damaged_file_is_an_error(open_local: Open, content: bytes, said: str) -> None:
    with pytest.raises(SourceFormatError, match=rf"a.parquet: .*{said}"):
        read(open_local("a.parquet", content))


def test_a_compressed_parquet_file_is_refused(open_local: Open) -> None:
    with pytest.raises(SourceFormatError, match=r"compresses its own pages: store it as .parquet"):
        read(open_local("a.parquet.gz", CONTENT))


def test_a_bomb_is_refused_by_its_footer(open_local: Open) -> None:
    content = parquet({"text": ["\n" * 20_000_000]}, compression="zstd", use_dictionary=False, write_statistics=False)
    with pytest.raises(SourceFormatError, match=r"row group 0: \d+ bytes hold \d+, more than 300 times"):
        read(open_local("a.parquet", content))


def test_a_file_that_was_written_anew_since_the_cursor_is_an_error(open_local: Open) -> None:
    cursor, _ = next(open_local("a.parquet", CONTENT).stream())
    other = open_local("a.parquet", parquet({"text": [f"another {text}" for text in TEXTS]}))
    with pytest.raises(SourceFormatError, match=r"had \d+ bytes and has \d+ now; start again from the beginning"):
        list(other.stream(after=cursor))


def test_memory_grows_neither_with_the_file_nor_with_its_row_group(tmp_path: Path) -> None:
    words = [f"{i} " + "word " * 2000 for i in range(6000)]
    table = pa.table({"text": words})
    how: dict[str, Any] = {"row_group_size": 6000, "write_batch_size": 50, "use_dictionary": False}
    pq.write_table(table, tmp_path / "a.parquet", compression="none", **how)
    assert table.nbytes > 50_000_000
    del table, words
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    columns = count = 0
    for _ in open_kind("local", folder=tmp_path, path="a.parquet").stream():
        count += 1
        columns = max(columns, pa.total_allocated_bytes() - before)
    raw = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6000
    assert columns + raw < 12_000_000


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(CONTENT)
    stream = open_kind("local", folder=tmp_path, path="*.parquet").stream()
    cursor = json.loads(json.dumps(next(stream)[0]))
    (tmp_path / "a.parquet").rename(tmp_path / "b.parquet")
    with pytest.raises(SourceUnreachableError, match=r"'a.parquet' that was being read is gone"):
        list(open_kind("local", folder=tmp_path, path="*.parquet").stream(after=cursor))
