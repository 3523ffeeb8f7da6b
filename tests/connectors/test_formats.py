from __future__ import annotations

import gzip
import itertools
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.connectors.base import Connector
from adapter_service.connectors.files.json_array import read_elements
from adapter_service.connectors.files.lines import split_lines
from adapter_service.connectors.files.places import Place
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SourceFormatError, SourceUnreachableError
from tests.connectors.conftest import Open, open_kind


def read(connector: Connector) -> tuple[list[str], dict[str, int]]:
    """The texts, and the reasons for what was skipped."""
    tally = Tally("corpus", max_skipped_fraction=1.0)
    texts = [sample.completion for _, sample in tallied(connector, tally)]
    return texts, tally.counts()["reasons"]


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def test_a_half_line_at_the_end_is_counted(open_local: Open) -> None:
    assert read(open_local("a.jsonl", b'{"text": "a"}\n{"text": "b')) == (["a"], {"not valid JSON": 1})


def test_a_whole_last_line_needs_no_line_end(open_local: Open) -> None:
    assert read(open_local("a.jsonl", b'{"text": "a"}\r\n\r\n{"text": "b"}')) == (["a", "b"], {})


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_bytes_that_are_not_utf8_cost_one_record(open_local: Open, name: str) -> None:
    rows = [b'{"text": "a"}', b'{"text": "\xff\xfe"}', b'{"text": "b"}']
    content = b"[" + b",".join(rows) + b"]" if name == "a.json" else b"\n".join(rows)
    assert read(open_local(name, content)) == (["a", "b"], {"not UTF-8": 1})


def test_a_line_that_is_too_long_costs_one_record(open_local: Open) -> None:
    content = b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n'
    texts, reasons = read(open_local("a.jsonl", content, max_line_bytes=1000))
    assert texts == ["a", "b"]
    assert reasons == {"longer than 1000 bytes (max_line_bytes)": 1}


def test_a_long_line_over_many_blocks_does_not_spoil_the_next() -> None:
    data = b"a\n" + b"x" * 5000 + b"\nb\nc\n"
    lines = list(split_lines(in_pieces(data, 100), Place(), 1000))
    assert [line.text for line in lines] == ["a", None, "b", "c"]
    assert lines[-1].end == Place(len(data), 4)


def test_an_endless_line_ends_the_stream_in_bounded_memory() -> None:
    endless = itertools.repeat(b"x" * 1000)
    with pytest.raises(SourceFormatError, match="line 1 has no end within"):
        list(split_lines(endless, Place(), 10_000))


def test_a_byte_order_mark_is_not_part_of_the_text(open_local: Open) -> None:
    assert read(open_local("a.txt", b"\xef\xbb\xbfone\ntwo\n"))[0] == ["one", "two"]
    assert read(open_local("a.json", b'\xef\xbb\xbf[{"text": "one"}]'))[0] == ["one"]


def test_utf16_is_refused_by_name(open_local: Open) -> None:
    with pytest.raises(SourceFormatError, match=r"a.txt: the file is UTF-16.*convert"):
        read(open_local("a.txt", "text".encode("utf-16")))


def test_paragraphs_are_told_apart_by_blank_lines(open_local: Open) -> None:
    content = b"one\ntwo\n\n\nthree\n \nfour"
    assert read(open_local("a.txt", content, split="paragraph"))[0] == ["one\ntwo", "three", "four"]


def test_csv_rows_that_do_not_fit_are_counted(open_local: Open) -> None:
    content = b'text,language\na,hi\nb\nc"c,hi\n"d" d,hi\n"e\ne",hi\n'
    texts, reasons = read(open_local("a.csv", content))
    assert texts == ["a", 'c"c', "e\ne"]
    assert sum(reasons.values()) == 2


def test_a_quote_that_is_never_closed_is_counted_once(open_local: Open) -> None:
    texts, reasons = read(open_local("a.csv", b'text\na\n"b\nc\n'))
    assert texts == ["a"]
    assert reasons == {"not valid CSV: unexpected end of data": 1}


def test_a_quote_that_swallows_line_after_line_is_given_up_and_reading_goes_on(open_local: Open) -> None:
    content = b'text\n"a\n' + b"line\n" * 300 + b'x"\nb\n'
    texts, reasons = read(open_local("a.csv", content, max_line_bytes=1000))
    assert texts[-1] == "b"
    assert reasons["not valid CSV: a quote is not closed within max_line_bytes"] == 1


def test_a_cell_of_csv_may_be_as_long_as_a_line(open_local: Open) -> None:
    content = b"text\n" + b"x" * 200_000 + b"\ny\n"
    assert [len(text) for text in read(open_local("a.csv", content))[0]] == [200_000, 1]


def test_tabs_part_the_columns_of_a_tsv(open_local: Open) -> None:
    assert read(open_local("a.tsv", b"text\tlanguage\na,b\thi\n"))[0] == ["a,b"]


@pytest.mark.parametrize("header", [b"text,text", b"text, text", b'"text'])
def test_csv_without_names_of_columns_is_refused(open_local: Open, header: bytes) -> None:
    with pytest.raises(SourceFormatError, match="first line has to name the columns"):
        read(open_local("a.csv", header + b"\n1,2\n"))


def test_an_array_may_lie_within_an_object(open_local: Open) -> None:
    content = json.dumps({"meta": {"items": [1, '"]}']}, "data": {"items": [{"text": "a"}]}, "more": 1})
    assert read(open_local("a.json", content.encode(), records="data.items"))[0] == ["a"]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b'{"data": []}', {}, "one object, not an array; keys found: data: say which key"),
        (b'{"data": []}', {"records": "rows"}, "no array under 'rows'; keys found: data"),
        (b'{"data": 1}', {"records": "data"}, "an array of objects is read"),
        (b'"text"', {}, "an array of objects is read"),
        (b'[{"text": "a"}', {}, "the array is not closed"),
        (b'[{"text": "a"},', {}, "the array is not closed"),
        (b'[{"text": "a"}] []', {}, "more follows"),
        (b'[{"text": "' + b"x" * 900_000 + b'"}]', {"max_line_bytes": 1000}, "raise `max_line_bytes`"),
    ],
)
def test_json_that_is_no_array_of_records_says_what_it_is(
    open_local: Open, content: bytes, options: dict[str, str], said: str
) -> None:
    with pytest.raises(SourceFormatError, match=said):
        read(open_local("a.json", content, **options))


def test_elements_that_are_no_objects_are_counted(open_local: Open) -> None:
    texts, reasons = read(open_local("a.json", b'[1, {"text": "a"}, {"text": }, {"text": "b"}}, []]'))
    assert texts == ["a"]
    assert reasons == {
        "a int where an object is wanted": 1,
        "not valid JSON": 2,
        "a list where an object is wanted": 1,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_arrays_are_taken_apart_wherever_the_blocks_end(
    values: list[object], size: int, ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps({"a": [0], "b": values}, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    found = [json.loads(raw) for _, raw in read_elements(in_pieces(data, size), Place(), ["b"], 10_000)]
    assert found == json.loads(data)["b"]


def test_several_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = f"{name} one\n{name} two\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    connector = open_kind("local", folder=tmp_path, path="**/*.txt*")
    pairs = list(connector.stream())
    assert [sample.completion.split()[0] for _, sample in pairs[::2]] == ["a.txt.gz", "b.txt", "sub/c.txt"]
    for i, (cursor, _) in enumerate(pairs):
        assert list(connector.stream(after=cursor)) == pairs[i + 1 :]


def test_a_name_that_is_not_utf_8_is_shown_as_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"one\ntwo\n")
    connector = open_kind("local", folder=tmp_path, path="*.txt")
    (cursor, first), (_, second) = connector.stream()
    assert first.origin == r"corpus:caf\xe9.txt:1"
    assert [sample for _, sample in connector.stream(after=cursor)] == [second]


def test_an_origin_names_source_file_and_line(open_local: Open) -> None:
    _, sample = list(open_local("a.txt", b"one\n\ntwo\n").stream())[-1]
    assert sample.origin == "corpus:a.txt:3"


@pytest.mark.parametrize(("path", "said"), [("none.txt", "no file matches"), (".", "is the folder")])
def test_a_path_without_files_says_so(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(SourceUnreachableError, match=said):
        read(open_kind("local", folder=tmp_path, path=path))


def test_a_name_that_shows_no_format_asks_for_it(open_local: Open) -> None:
    with pytest.raises(SourceFormatError, match="say `file_format: jsonl`"):
        read(open_local("a.dat", b"one\n"))
    assert read(open_local("a.dat", b"one\n", file_format="text"))[0] == ["one"]


def test_a_file_that_shrank_since_the_cursor_is_an_error(open_local: Open) -> None:
    cursor, _ = next(open_local("a.txt", b"one\ntwo\n").stream())
    with pytest.raises(SourceFormatError, match="start again from the beginning"):
        list(open_local("a.txt", b"one\n").stream(after=cursor))


def test_a_file_that_grew_since_the_cursor_goes_on(open_local: Open) -> None:
    cursor, _ = list(open_local("a.txt", b"one\n").stream())[-1]
    grown = open_local("a.txt", b"one\ntwo\n").stream(after=cursor)
    assert [sample.completion for _, sample in grown] == ["two"]


@pytest.mark.parametrize("name", ["big.jsonl", "big.json"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    row = json.dumps({"text": "word " * 2000})
    with (tmp_path / name).open("w") as file:
        file.write("[" if name == "big.json" else "")
        file.writelines(f"{row}{',' if name == 'big.json' else ''}\n" for _ in range(5000))
        file.write(f"{row}]" if name == "big.json" else row)
    assert (tmp_path / name).stat().st_size > 50_000_000
    connector = open_kind("local", folder=tmp_path, path=name, shuffle_buffer=50)
    tracemalloc.start()
    count = sum(1 for _ in connector.stream())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5001
    assert peak < 10_000_000
