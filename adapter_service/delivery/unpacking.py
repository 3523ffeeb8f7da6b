"""An `adapter.zip` that came from elsewhere, as a folder: whole and as its manifest says, or not at all.

Nothing is written before all names, numbers, sizes and ratios are known to be those of an adapter; what
an archive says of itself is not believed while it is read either.
"""

from __future__ import annotations

import hashlib
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, LargeZipFile, ZipFile, ZipInfo

from adapter_service.adapters.artifact import MANIFEST
from adapter_service.delivery.manifest import MAX_MANIFEST_BYTES, PackedManifest, is_plain, parse_packed
from adapter_service.durable import make_folder, sync, sync_folder
from adapter_service.errors import AdapterFormatError, ConflictError
from adapter_service.publishing.manifest import StoredFile, megabytes

_BLOCK_BYTES = 1 << 20
_ENCRYPTED = 0x1
_AGAIN = "have the adapter published again"
# What a small text may be deflated to says nothing.
_RATIO_FROM_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` is of all files together, unpacked; `max_ratio` of one file to what it takes in the zip."""

    max_files: int = 32
    max_bytes: int = 1 << 30
    max_ratio: int = 100


def unpack(path: Path, folder: Path, limits: Limits | None = None) -> PackedManifest:
    """Unpack the zip at `path` to `folder`, which is renamed to its name last.

    Raises:
        AdapterFormatError: it is no `adapter.zip`, or more than `limits` allow.
        ConflictError: there is such a folder.
    """
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        gathered = Path(work) / "files"
        gathered.mkdir()
        with _translated(), ZipFile(path) as archive:
            manifest = _unpack(archive, gathered, limits or Limits())
        sync_folder(gathered)
        if folder.exists():
            raise ConflictError(f"there is a folder {folder.name!r} already; remove it, or unpack to another one")
        gathered.rename(folder)
    sync(folder.parent)
    return manifest


def _unpack(archive: ZipFile, folder: Path, limits: Limits) -> PackedManifest:
    entries = {entry.filename: entry for entry in _checked(archive.infolist(), limits)}
    if MANIFEST not in entries:
        raise AdapterFormatError(f"it has no {MANIFEST}; {_AGAIN}")
    manifest = parse_packed(_content(archive, entries[MANIFEST]))
    if differing := sorted(manifest.files.keys() ^ (entries.keys() - {MANIFEST})):
        raise AdapterFormatError(f"its {MANIFEST} and its files differ in {differing[0]!r}; {_AGAIN}")
    for name, wanted in manifest.files.items():
        if entries[name].file_size != wanted.size_bytes:
            raise _other(name, f"{entries[name].file_size} bytes", f"{wanted.size_bytes}")
        _extract(archive, entries[name], folder / name, wanted)
    (folder / MANIFEST).write_bytes(_content(archive, entries[MANIFEST]))
    return manifest


def _checked(entries: Sequence[ZipInfo], limits: Limits) -> Sequence[ZipInfo]:
    if len(entries) > limits.max_files:
        raise AdapterFormatError(f"it has {len(entries)} files; at most {limits.max_files} are unpacked")
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise AdapterFormatError(f"two of its files have one name; {_AGAIN}")
    if (unpacked := sum(entry.file_size for entry in entries)) > limits.max_bytes:
        raise AdapterFormatError(
            f"it has {megabytes(unpacked)} unpacked; at most {megabytes(limits.max_bytes)} are allowed"
        )
    for entry in entries:
        _check(entry, limits)
    return entries


def _check(entry: ZipInfo, limits: Limits) -> None:
    name = entry.filename[:80]
    # A name that zipfile changed (a NUL, another system's separator) is not the one that others see.
    if not is_plain(entry.filename) or entry.orig_filename != entry.filename:
        raise AdapterFormatError(f"it has a file {name!r}, which no file of an adapter is called; {_AGAIN}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG} or entry.is_dir():
        raise AdapterFormatError(f"{name!r} in it is no plain file; {_AGAIN}")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise AdapterFormatError(f"{name!r} in it is encrypted, or packed in a way that is not read; {_AGAIN}")
    if entry.file_size > max(_RATIO_FROM_BYTES, limits.max_ratio * entry.compress_size):
        raise AdapterFormatError(
            f"{name!r} in it is said to unpack to more than {limits.max_ratio} times its size; it is not unpacked"
        )


def _content(archive: ZipFile, entry: ZipInfo) -> bytes:
    with archive.open(entry) as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise AdapterFormatError(f"its {MANIFEST} has more than {MAX_MANIFEST_BYTES} bytes; it is not read")
    return content


def _extract(archive: ZipFile, entry: ZipInfo, target: Path, wanted: StoredFile) -> None:
    digest, left = hashlib.sha256(), wanted.size_bytes
    with archive.open(entry) as file, target.open("xb") as out:
        while block := file.read(_BLOCK_BYTES):
            left -= len(block)
            if left < 0:
                raise _other(target.name, "more bytes", f"{wanted.size_bytes}")
            digest.update(block)
            out.write(block)
    if left or digest.hexdigest() != wanted.sha256:
        raise _other(target.name, f"the hash {digest.hexdigest()[:12]}", wanted.sha256[:12])


def _other(name: str, found: str, wanted: str) -> AdapterFormatError:
    return AdapterFormatError(f"{name} in it has {found} where its {MANIFEST} has {wanted}; fetch it again")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BadZipFile, LargeZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
        raise AdapterFormatError(f"it is no zip that can be read ({type(error).__name__}); fetch it again") from error
