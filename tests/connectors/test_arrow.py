from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest

from adapter_service.connectors.files import arrow
from adapter_service.errors import SourceFormatError
from tests.connectors.conftest import Open

TEXTS = [f"text {i}" for i in range(35)]


def stream_of(texts: list[str], **others: Any) -> bytes:
    out = io.BytesIO()
    table = pa.table({"text": texts, **others})
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return out.getvalue()


CONTENT = stream_of(TEXTS)


def test_rows_of_every_batch_are_read(open_local: Open) -> None:
    assert [sample.completion for _, sample in open_local("a.arrow", CONTENT).stream()] == TEXTS


def test_columns_that_the_mapping_does_not_want_do_no_harm(open_local: Open) -> None:
    images, dates = pa.array([b"x" * 5000] * 35), pa.array([2**31 - 1] * 35, pa.date32())
    connector = open_local("a.arrow", stream_of(TEXTS, image=images, at=dates), max_line_bytes=1000)
    assert [sample.completion for _, sample in connector.stream()] == TEXTS


def test_a_column_may_lie_within_another(open_local: Open) -> None:
    content = stream_of(["-"], translation=pa.array([{"en": "Water", "hi": "पानी", "ta": "நீர்"}]))
    connector = open_local("a.arrow", content, fields={"text": "translation.hi"})
    assert [sample.completion for _, sample in connector.stream()] == ["पानी"]


def last_batch(content: bytes) -> int:
    """Where the last message begins."""
    return content[:-8].rindex(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[: last_batch(CONTENT)], r"no end after 30 rows; it was cut short"),
        (CONTENT[:-100], "it is damaged: write it again"),
        (b"", "not an Arrow stream: it begins with b''"),
        (b"ARROW1\0\0" + CONTENT, "not an Arrow stream: it begins with b'ARRO'"),
    ],
)
def test_a_damaged_file_is_an_error(open_local: Open, content: bytes, said: str) -> None:
    with pytest.raises(SourceFormatError, match=rf"a.arrow: .*{said}"):
        list(open_local("a.arrow", content).stream())


def test_a_batch_that_is_held_whole_is_bounded(open_local: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_BATCH_BYTES", 2000)
    with pytest.raises(SourceFormatError, match=r"a batch of \d+ bytes, more than the 2000 that are held at once"):
        list(open_local("a.arrow", stream_of(["x" * 5000])).stream())
