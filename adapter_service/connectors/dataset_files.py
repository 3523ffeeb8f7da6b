"""Which files a dataset's config and split consist of: asked of `datasets`, and no code of a dataset is ever run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import yaml
from huggingface_hub import HfFileSystem

from adapter_service.connectors.dataset_card import CARDS, refuse_addresses
from adapter_service.connectors.dataset_options import kind_of, reading_of
from adapter_service.connectors.dataset_spec import HfSpec
from adapter_service.connectors.files import FileFormat, FileSpec
from adapter_service.connectors.hub import CONVERTED, HubDataset, translated
from adapter_service.errors import EmptySourceError, SourceError, SourceFormatError, SourceUnreachableError

_PACKED = (".zip", ".bz2", ".xz", ".lz4", ".7z", ".tar", ".tgz")

datasets.disable_progress_bars()
# Else each look at a card sends a request to a server of its own, and waits 5 s for its name without a network.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False


@dataclass(frozen=True, slots=True)
class DataFile:
    """`label` is the path in the dataset, `place` a URL or a path on this machine."""

    label: str
    place: str


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """The files of one split, in order; `revision` is the commit, or nothing where it is a folder."""

    files: tuple[DataFile, ...]
    reading: FileSpec
    kind: FileFormat
    """Of the files whose names do not show it: that of most."""
    revision: str = ""
    is_public_hub: bool = True


def find_folder_files(spec: HfSpec) -> DatasetFiles:
    """The files of a folder that is built like a dataset on the Hub.

    Raises:
        SourceError: no such folder, config or split, or files that cannot be read.
    """
    folder = Path(spec.path).resolve()
    if not folder.is_dir():
        raise SourceUnreachableError(
            f"there is no folder {folder.name!r}; check `path`, or give a `dataset` on the Hub"
        )
    if (saved := _saved_to_disk(folder, spec)) is not None:
        return saved
    builder = _builder(spec, str(folder), cards=[folder / name for name in CARDS if (folder / name).is_file()])
    # By the letter: the files of a copy of the Hub's cache are links to places outside of it.
    files = [Path(os.path.normpath(place)) for place in _of_split(builder, spec)]
    if outside := [file for file in files if not file.is_relative_to(folder)]:
        raise SourceFormatError(f"{spec.shown}: its card names {outside[0].name!r}, which lies outside of the folder")
    found = tuple(DataFile(file.relative_to(folder).as_posix(), str(file)) for file in files)
    kind = kind_of(builder, spec)
    return DatasetFiles(found, reading_of(builder, spec, kind), kind)


def _saved_to_disk(folder: Path, spec: HfSpec) -> DatasetFiles | None:
    """The files of a folder that `save_to_disk` wrote, in which `datasets` sees only JSON."""
    splits = _json_of(folder / "dataset_dict.json").get("splits")
    if splits is not None and spec.split not in splits:
        raise _no_split(spec, splits)
    part = Path(spec.split) if splits is not None else Path()
    state = _json_of(folder / part / "state.json")
    if "_data_files" not in state:
        return None
    if splits is None and state.get("_split") not in {None, spec.split}:
        raise _no_split(spec, [state["_split"]])
    labels = [(part / file["filename"]).as_posix() for file in state["_data_files"]]
    return DatasetFiles(tuple(DataFile(label, str(folder / label)) for label in labels), spec.file_spec(), "arrow")


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_hub_files(spec: HfSpec, revision: str) -> DatasetFiles:
    """The files at the commit that `revision` names now.

    Raises:
        SourceError: not reachable, not allowed, no such dataset, revision, config or split, a script,
            or files that cannot be read.
    """
    hub = HubDataset(spec)
    info = hub.info(revision)
    commit = str(info.sha)
    builder = _builder(
        spec, f"hf://datasets/{spec.dataset}", cards=hub.cards(info), revision=commit, token=spec.token or False
    )
    prefix = f"hf://datasets/{spec.dataset}@{commit}/"
    # `datasets` refuses a card that names files of anywhere else, this machine for one.
    labels = [place.removeprefix(prefix) for place in _of_split(builder, spec)]
    files = tuple(DataFile(label, hub.url(label, commit)) for label in labels)
    kind = kind_of(builder, spec)
    return DatasetFiles(files, reading_of(builder, spec, kind), kind, commit, is_public_hub=hub.is_public)


def _builder(spec: HfSpec, place: str, *, cards: Iterable[Path], **options: Any) -> datasets.DatasetBuilder:
    """What `datasets` makes of the dataset's cards and listing."""
    # Listings and refusals are kept as long as the process lives: terms accepted since would not be seen.
    HfFileSystem.clear_instance_cache()
    # Without a cache folder of its own it would fall back on an older copy of the dataset in silence.
    with TemporaryDirectory() as cache, translated(spec, options.get("revision", "")):
        try:
            refuse_addresses(spec.shown, cards)
            return datasets.load_dataset_builder(
                place, spec.config or None, data_dir=spec.data_dir or None, cache_dir=cache, **options
            )
        except ValueError as error:
            raise _wrong_config(spec, error) from error
        except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, RuntimeError) as error:
            raise _unreadable(spec, error) from error
        except (yaml.YAMLError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise SourceFormatError(f"dataset '{spec.shown}': its card (README.md) cannot be read: {reason}") from error
        except ConnectionError as error:
            raise SourceUnreachableError(f"dataset '{spec.shown}': {error}; check the network") from error


def _wrong_config(spec: HfSpec, error: ValueError) -> SourceError:
    names = re.findall(r"'([^']*)'", str(error).partition("[")[2].partition("]")[0])
    if names and not spec.config:
        return SourceFormatError(f"dataset '{spec.shown}' has several configs; say `config:` one of {', '.join(names)}")
    if names:
        return SourceFormatError(f"dataset '{spec.shown}' has no config '{spec.config}'; there are: {', '.join(names)}")
    return _unreadable(spec, error)


def _unreadable(spec: HfSpec, error: Exception) -> SourceError:
    if "script" in str(error):
        return SourceFormatError(
            f"dataset '{spec.shown}' is read by a script, and code of others is never run: {error}"
        )
    if isinstance(error, FileNotFoundError):
        return EmptySourceError(
            f"dataset '{spec.shown}' has no data files of a known format (JSON lines, JSON, CSV, text, Parquet)"
            f"{f' below {spec.data_dir!r}' if spec.data_dir else ', or none where its card says'}; check what it names"
        )
    return SourceFormatError(f"dataset '{spec.shown}' cannot be read: {error}")


def _of_split(builder: datasets.DatasetBuilder, spec: HfSpec) -> list[str]:
    splits: Mapping[str, list[str]] = {str(name): files for name, files in builder.config.data_files.items()}
    if spec.split not in splits:
        raise _no_split(spec, splits)
    files = [str(file) for file in splits[spec.split]]
    if packed := [file for file in files if file.lower().endswith(_PACKED)]:
        raise SourceFormatError(
            f"dataset '{spec.shown}' has its files packed ({packed[0].rpartition('/')[2]}); .gz and .zst are streamed"
            f"{f'; {CONVERTED}' if spec.dataset else ''}"
        )
    return files


def _no_split(spec: HfSpec, there_are: Iterable[str]) -> SourceFormatError:
    return SourceFormatError(f"dataset '{spec.shown}' has no split '{spec.split}'; there are: {', '.join(there_are)}")
