"""A version's files plus manifest: what may be in the folder, and how it appears all at once.

The manifest is written last and the folder renamed after it, so a folder in its place is complete.
Only names and bytes are looked at here; shapes and numbers are the loader's.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_service import adapter_names
from adapter_service.canonical import canonical_json
from adapter_service.durable import make_folder, sync
from adapter_service.errors import AdapterFormatError, InvalidParameterError

MANIFEST = "manifest.json"
REQUIRED_FILES = frozenset({"adapter_config.json", "adapter_model.safetensors"})
OPTIONAL_FILES = frozenset({"README.md", "training_metadata.json", "resolved_config.yaml"})
# Reading one of these runs whatever its author put in it.
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})

KEY_PATTERN = "[0-9a-f]{16,64}"


def check_name(name: str) -> str:
    """`name`, if an adapter may be called so."""
    if (fault := adapter_names.fault_of(name)) is not None:
        raise InvalidParameterError(f"adapter {name!r}: {fault}", parameter="adapter")
    return name


def version_key(samples_hash: str, parameters: Mapping[str, Any], base_id: str, parent_key: str | None) -> str:
    """What a version was made of, as 64 hex digits: equal ingredients, equal key."""
    made_of = {"samples": samples_hash, "parameters": parameters, "base": base_id, "parent": parent_key}
    return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()


def check_files(folder: Path) -> frozenset[str]:
    """The names of an adapter's files without the manifest, if they are those that an adapter has.

    Raises:
        AdapterFormatError: something is missing, unknown, a link or a pickle.
    """
    entries = list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    for entry in entries:
        _check_entry(entry)
    names = frozenset(entry.name for entry in entries) - {MANIFEST}
    if missing := sorted(REQUIRED_FILES - names):
        raise AdapterFormatError(
            f"adapter {folder.name!r} lacks {', '.join(missing)}; save it as PEFT does, in safetensors"
        )
    return names


def _check_entry(entry: Path) -> None:
    if entry.is_symlink() or not entry.is_file():
        raise AdapterFormatError(f"{entry.name!r} in an adapter folder is not a plain file; put the file itself there")
    if entry.suffix in PICKLES:
        raise AdapterFormatError(
            f"{entry.name!r} may run code when it is read; only safetensors are served: convert it"
        )
    if entry.name not in REQUIRED_FILES | OPTIONAL_FILES | {MANIFEST}:
        allowed = ", ".join(sorted(REQUIRED_FILES | OPTIONAL_FILES))
        raise AdapterFormatError(f"unknown file {entry.name!r} in an adapter folder; allowed: {allowed}: remove it")


def seal_folder(work_folder: Path) -> None:
    """Write the manifest, and wait until the disk has all of the folder."""
    names = check_files(work_folder)
    for name in sorted(names):
        sync(work_folder / name)
    write_manifest(work_folder, names)
    sync(work_folder)


def place_folder(work_folder: Path, target: Path) -> None:
    """Move a sealed folder to `target`, on the same disk, so that it is there whole or not at all.

    A power cut at any moment leaves either `work_folder` or `target`. What lies at `target`
    already has no row and is replaced.
    """
    if re.fullmatch(KEY_PATTERN, target.name) is None:
        raise InvalidParameterError(f"version key {target.name!r} is not a hash in hex; use version_key()")
    make_folder(target.parent)
    if target.exists():
        shutil.rmtree(target)
    work_folder.replace(target)
    sync(target.parent)
    sync(target.parent.parent)  # a process that died there may have made `target.parent`


def verify_folder(folder: Path) -> None:
    """Compare every byte with the manifest.

    Raises:
        AdapterFormatError: the folder is not what was published.
    """
    manifest = read_manifest(folder)
    if differing := sorted(check_files(folder) ^ manifest.keys()):
        raise damaged(folder, f"its manifest and its files differ in {', '.join(differing)}")
    for name, expected in manifest.items():
        if (found := describe(folder / name)) != expected:
            raise damaged(folder, f"{name} has {found} where the manifest has {expected}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of each file, by its name."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder, f"its {MANIFEST} cannot be read ({type(error).__name__})") from error
    if not isinstance(manifest, dict):
        raise damaged(folder, f"its {MANIFEST} is not an object")
    return manifest


def damaged(folder: Path, what: str) -> AdapterFormatError:
    """Removed first: as long as it has its row, whatever trains or pulls the same finds that it is here."""
    return AdapterFormatError(f"version {folder.name[:12]} is damaged: {what}; remove it, then train or pull it again")


def write_manifest(folder: Path, names: frozenset[str]) -> None:
    """Write down what the files in `folder` are, the last of which this one is."""
    manifest = {name: describe(folder / name) for name in sorted(names)}
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(path)


def describe(path: Path) -> dict[str, Any]:
    """A file as manifests have it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size_bytes": path.stat().st_size, "sha256": digest}
