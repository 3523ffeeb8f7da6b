"""A judged version as one `adapter.zip` for its node: equal versions give equal bytes.

Beside PEFT's two files there are the base's tokenizer, so that a node needs nothing else of the base than its
weights, and the card where it tells nothing of this machine. Names are in order, dates are zip's first, and
the manifest comes last. (Equal bytes as long as Python's zlib and transformers stay the same; what was
uploaded is kept until it is published, and compared by its hash.)
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from adapter_service.adapters import Version
from adapter_service.adapters.artifact import MANIFEST, REQUIRED_FILES, verify_folder
from adapter_service.adapters.lease import leased
from adapter_service.delivery.manifest import PackedManifest, is_plain
from adapter_service.durable import make_folder, sync
from adapter_service.errors import AdapterTooLargeError, UnknownAdapterError
from adapter_service.publishing.copying import described_file
from adapter_service.publishing.manifest import StoredFile, megabytes

TokenizerFiles = Callable[[Path], Iterable[Path]]
"""Writes the base's tokenizer into an empty folder, as transformers does, and says which files these are."""

PART_PREFIX = ".packing-"
_CONFIG = "adapter_config.json"
_CARDS = ("README.md", "training_metadata.json")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
_UNIX = 3
_BLOCK_BYTES = 1 << 20
# An absolute path with a folder in it, and no URL.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"`|]+/)+")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom an `adapter.zip` is for; the names are those that the hub gave."""

    node_id: str
    base_model_id: str
    dataset_hash: str


def pack(
    version: Version, recipient: Recipient, target: Path, *, tokenizer_files: TokenizerFiles, max_bytes: int
) -> StoredFile:
    """Write the zip to `target`, which is there whole or not at all; its size and hash.

    Raises:
        AdapterFormatError: the version's files are damaged.
        AdapterTooLargeError: the zip would have more than `max_bytes`.
        UnknownAdapterError: the version was removed.
    """
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=target.parent) as work:
        files = {path.name: path for path in _checked(tokenizer_files(_made(Path(work) / "tokenizer")))}
        part = Path(work) / target.name
        try:
            with leased(version.path):
                verify_folder(version.path)
                files |= _own_files(version.path, _made(Path(work) / "own"))
                _write(part, files, version, recipient, max_bytes)
        except FileNotFoundError as error:
            raise UnknownAdapterError(
                f"{version.reference} was removed; there is nothing to deliver any more, post the commands again"
            ) from error
        sync(part)
        packed = described_file(part)
        part.replace(target)
    sync(target.parent)
    return packed


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _checked(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that belong into a zip: templates in folders of their own do not, and nothing replaces an adapter's."""
    for path in paths:
        if is_plain(path.name) and path.is_file() and path.name not in {*REQUIRED_FILES, *_CARDS, MANIFEST}:
            yield path


def _own_files(folder: Path, work: Path) -> dict[str, Path]:
    """The version's files as others may see them."""
    files = {name: folder / name for name in REQUIRED_FILES}
    files[_CONFIG] = work / _CONFIG
    files[_CONFIG].write_text(_without_path(folder / _CONFIG), encoding="utf-8")
    for name in _CARDS:
        card = folder / name
        if card.is_file() and not _PATH.search(card.read_text(encoding="utf-8")):
            files[name] = card
    return files


def _without_path(config: Path) -> str:
    """PEFT's config as it is; a base that lies in a folder of this machine is called by the folder's name."""
    text = config.read_text(encoding="utf-8")
    described = json.loads(text)
    base = str(described.get("base_model_name_or_path", ""))
    if not Path(base).is_absolute():
        return text
    described["base_model_name_or_path"] = Path(base).name
    return json.dumps(described, indent=2, sort_keys=True) + "\n"


def _write(part: Path, files: dict[str, Path], version: Version, recipient: Recipient, max_bytes: int) -> None:
    with ZipFile(part, "x") as archive:
        for name in sorted(files):
            entry = _entry(name)
            entry.file_size = files[name].stat().st_size  # says whether it takes the fields of large files
            with files[name].open("rb") as file, archive.open(entry, "w") as out:
                for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
                    out.write(block)
                    _check_size(part, max_bytes)
        manifest = PackedManifest(
            node_id=recipient.node_id,
            base_model_id=recipient.base_model_id,
            dataset_hash=recipient.dataset_hash,
            created_at=version.created_at,
            files={name: described_file(files[name]) for name in sorted(files)},
        )
        archive.writestr(_entry(MANIFEST), manifest.to_bytes())
    _check_size(part, max_bytes)


def _entry(name: str) -> ZipInfo:
    """Weights are as good as random: they are stored, all else is deflated at zlib's own level."""
    entry = ZipInfo(name, _EPOCH)
    entry.compress_type = ZIP_STORED if name.endswith(".safetensors") else ZIP_DEFLATED
    entry.create_system = _UNIX
    entry.external_attr = _PLAIN_FILE
    return entry


def _check_size(part: Path, max_bytes: int) -> None:
    if (found := part.stat().st_size) > max_bytes:
        raise AdapterTooLargeError(
            f"its adapter.zip has {megabytes(found)} or more, and artifacts.max_artifact_mb allows "
            f"{megabytes(max_bytes)}; raise that, or train with a smaller rank"
        )
