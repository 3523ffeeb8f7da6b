from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.connectors.files import BLOCK_BYTES
from adapter_service.connectors.files.compression import Compression, DecompressedFile, gunzip, unzstd
from adapter_service.connectors.local import LocalFile
from adapter_service.errors import SourceFormatError
from tests.connectors.conftest import Open

Unpack = Callable[[Iterator[bytes], str], Iterator[bytes]]
COMPRESS: dict[Compression, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}
UNPACK: dict[Compression, Unpack] = {"gz": gunzip, "zst": unzstd}

both = pytest.mark.parametrize("kind", ["gz", "zst"])


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


@both
@given(parts=st.lists(st.binary(max_size=200), max_size=4), size=st.integers(1, 50))
def test_every_member_of_a_file_is_read_wherever_the_blocks_end(
    kind: Compression, parts: list[bytes], size: int
) -> None:
    data = b"".join(COMPRESS[kind](part) for part in parts)
    assert b"".join(UNPACK[kind](in_pieces(data, size), "a")) == b"".join(parts)


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_zeros_between_members_and_at_the_end_hold_nothing(size: int) -> None:
    data = gzip.compress(b"one\n") + bytes(300) + gzip.compress(b"two\n") + bytes(512)
    assert b"".join(gunzip(in_pieces(data, size), "a")) == b"one\ntwo\n"


@both
def test_a_file_that_grows_a_hundredfold_comes_out_in_bounded_blocks(kind: Compression) -> None:
    text = b"".join(b"%06d the same line over and over\n" % (i // 100) for i in range(50_000))
    blocks = list(UNPACK[kind](in_pieces(COMPRESS[kind](text), 700), "a"))
    assert b"".join(blocks) == text
    assert max(map(len, blocks)) <= BLOCK_BYTES


@both
@pytest.mark.parametrize("missing", [1, 9, 200])
def test_a_file_that_was_cut_short_is_an_error(open_local: Open, kind: Compression, missing: int) -> None:
    content = COMPRESS[kind](b"".join(b"line %d\n" % (i * i) for i in range(1000)))
    stream = open_local(f"a.txt.{kind}", content[:-missing]).stream()
    with pytest.raises(SourceFormatError, match=rf"a.txt.{kind}: the (gzip|zstd) data ends in the middle.*cut short"):
        list(stream)


@both
def test_a_file_whose_name_promises_too_much_is_an_error(open_local: Open, kind: Compression) -> None:
    with pytest.raises(SourceFormatError, match=r"not valid (gzip|zstd) data.*compression: none"):
        list(open_local(f"a.txt.{kind}", b"one\ntwo\n").stream())
    read = open_local(f"a.txt.{kind}", b"one\ntwo\n", compression="none", file_format="text").stream()
    assert [sample.completion for _, sample in read] == ["one", "two"]


def bomb(kind: Compression) -> bytes:
    """60 MB of line ends."""
    encoder = zlib.compressobj(wbits=31) if kind == "gz" else zstandard.ZstdCompressor().compressobj()
    return b"".join(encoder.compress(b"\n" * 1_000_000) for _ in range(60)) + encoder.flush()


@both
def test_a_bomb_is_left_after_a_few_megabytes(kind: Compression) -> None:
    sizes: list[int] = []
    with pytest.raises(SourceFormatError, match="more than 300 times"):
        sizes.extend(len(block) for block in UNPACK[kind](in_pieces(bomb(kind), 4096), "a"))
    assert sum(sizes) < 40_000_000


def test_a_window_of_more_memory_than_is_usual_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = encoder.compress(b"text\n") + encoder.flush()
    with pytest.raises(SourceFormatError, match=r"window of more than 134217728 bytes.*--long=27"):
        list(unzstd(iter([data]), "a.zst"))


def test_frames_that_hold_no_data_are_passed_over() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    data = skippable + zstandard.compress(b"one\n") + skippable + zstandard.compress(b"two\n")
    assert b"".join(unzstd(in_pieces(data, 5), "a.zst")) == b"one\ntwo\n"


@both
def test_a_part_of_what_is_within_can_be_read(tmp_path: Path, kind: Compression) -> None:
    text = b"".join(b"line %d\n" % i for i in range(200_000))
    (tmp_path / "a").write_bytes(COMPRESS[kind](text))
    file = DecompressedFile(LocalFile(tmp_path / "a", "a"), kind)
    for offset, stop in ((0, 64), (300_000, 900_000), (1_000_000, None), (len(text) - 5, len(text) + 5)):
        assert b"".join(file.blocks(offset, stop)) == text[offset:stop]
