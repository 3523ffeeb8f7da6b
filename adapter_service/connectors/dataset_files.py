"""Which files a dataset's config and split consist of, and how they are written: asked of `datasets`.

Only cards and listings are fetched, a few kilobytes; no code of a dataset is ever run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import yaml
from huggingface_hub import DatasetInfo, HfApi, HfFileSystem, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # whichever HTTP library it was built on

from adapter_service.connectors.dataset_card import CARDS, refuse_addresses
from adapter_service.connectors.files import FileFormat, FileSpec
from adapter_service.connectors.patience import pause_seconds
from adapter_service.errors import EmptySourceError, SourceError, SourceFormatError, SourceUnreachableError

if TYPE_CHECKING:
    from adapter_service.connectors.huggingface import HfSpec

Answer = TypeVar("Answer")

PUBLIC_HUB = "https://huggingface.co"
# Says nothing of where the files lie, and is fetched by `datasets` all the same.
_OLD_CARD = "dataset_infos.json"
# It is kept on the disk; those with pictures in them have a few megabytes.
MAX_CARD_BYTES = 16 * 1024 * 1024
_CONVERTED = "the Hub's own conversion of it can be read: `revision: refs/convert/parquet`, `data_dir: <config>`"
_PACKED = (".zip", ".bz2", ".xz", ".lz4", ".7z", ".tar", ".tgz")
_KINDS: dict[str, FileFormat] = {"json": "json", "csv": "csv", "text": "text", "parquet": "parquet", "arrow": "arrow"}

# Options of `datasets` for the files of a config that change nothing about which records there are.
_HARMLESS = frozenset({
    "batch_size", "block_size", "chunksize", "columns", "encoding_errors", "engine", "features", "float_precision",
    "fragment_scan_options", "keep_linebreaks", "memory_map", "newlines_in_values", "on_bad_files", "on_bad_lines",
    "on_mixed_types", "parse_agent_traces", "use_threads", "verbose"
})  # fmt: skip

datasets.disable_progress_bars()
# Addresses are put together with a slash of their own.
datasets.config.HF_ENDPOINT = datasets.config.HF_ENDPOINT.rstrip("/")
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


def hub_endpoint() -> str:
    """The Hub that is asked: the public one, or another that HF_ENDPOINT names."""
    return str(datasets.config.HF_ENDPOINT)


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
    kind = _kind(builder, spec)
    return DatasetFiles(found, _reading(builder, spec, kind), kind)


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
    reading = FileSpec(**_shared(spec))
    return DatasetFiles(tuple(DataFile(label, str(folder / label)) for label in labels), reading, "arrow")


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
    api = HfApi(endpoint=hub_endpoint(), token=spec.token or False)
    info = _info(spec, api, revision)
    commit, endpoint = str(info.sha), hub_endpoint()
    builder = _builder(
        spec,
        f"hf://datasets/{spec.dataset}",
        cards=_cards(spec, api, info),
        revision=commit,
        token=spec.token or False,
    )
    prefix = f"hf://datasets/{spec.dataset}@{commit}/"
    # `datasets` refuses a card that names files of anywhere else, this machine for one.
    labels = [place.removeprefix(prefix) for place in _of_split(builder, spec)]
    files = tuple(DataFile(label, _url(spec, label, commit, endpoint)) for label in labels)
    kind = _kind(builder, spec)
    return DatasetFiles(files, _reading(builder, spec, kind), kind, commit, is_public_hub=endpoint == PUBLIC_HUB)


def _url(spec: HfSpec, label: str, commit: str, endpoint: str) -> str:
    return str(hf_hub_url(spec.dataset, label, repo_type="dataset", revision=commit, endpoint=endpoint))


def _info(spec: HfSpec, api: HfApi, revision: str) -> DatasetInfo:
    """What the Hub says of the dataset, once it is known that it may be read."""
    with _translated(spec, revision):
        info = _patiently(
            spec, lambda: api.dataset_info(spec.dataset, revision=revision or None, timeout=spec.timeout_seconds)
        )
        if info.gated:
            _patiently(spec, lambda: api.auth_check(spec.dataset, repo_type="dataset"))
    script = f"{spec.dataset.rpartition('/')[2]}.py"
    if script in _names(info):
        raise SourceFormatError(
            f"dataset '{spec.dataset}' is read by a script of its own ({script}), and code of others is never run; "
            f"{_CONVERTED}"
        )
    return info


def _names(info: DatasetInfo) -> set[str]:
    return {sibling.rfilename for sibling in info.siblings or []}


def _cards(spec: HfSpec, api: HfApi, info: DatasetInfo) -> list[Path]:
    """The dataset's cards; without the first, if it cannot be fetched, `datasets` would read other files in silence."""
    names = [name for name in (*CARDS, _OLD_CARD) if name in _names(info)]
    if not names:
        return []
    where: dict[str, Any] = {"repo_id": spec.dataset, "repo_type": "dataset", "revision": info.sha}
    with _translated(spec, str(info.sha)):
        for found in _patiently(spec, partial(api.get_paths_info, paths=names, **where)):
            if (size := getattr(found, "size", 0)) > MAX_CARD_BYTES:
                raise SourceFormatError(
                    f"dataset '{spec.dataset}': its card ({found.path}) has {size} bytes, and up to {MAX_CARD_BYTES} "
                    "are fetched; that is no card"
                )
        return [Path(api.hf_hub_download(filename=name, **where)) for name in names if name != _OLD_CARD]


def _patiently(spec: HfSpec, ask: Callable[[], Answer]) -> Answer:
    """The answer, asked for again where the Hub is busy or does not answer."""
    for failures in range(1, spec.retry_attempts + 1):
        try:
            return ask()
        except httpx.TransportError:
            pass
        except HfHubHTTPError as error:
            if error.response.status_code != 429 and error.response.status_code < 500:
                raise
        time.sleep(pause_seconds(spec.backoff_seconds, failures))
    return ask()


@contextmanager
def _translated(spec: HfSpec, revision: str) -> Iterator[None]:
    """The Hub's refusals as errors of ours, with what to do about them."""
    endpoint = hub_endpoint()
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' is on the Hub, and HF_HUB_OFFLINE forbids asking it; "
            "unset that, or give a folder as `path`"
        ) from error
    except GatedRepoError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' is gated; accept its terms at {endpoint}/datasets/{spec.dataset} and give "
            "that account's token as `token: ${HF_TOKEN}`"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceUnreachableError(
            f"{endpoint} knows no dataset '{spec.dataset}' that may be read"
            f"{' with this token' if spec.token else ' without a token'}; check the name, and for a private one "
            "`token: ${HF_TOKEN}`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' has no revision {revision!r}; give a branch, tag or commit that it has"
        ) from error
    except HfHubHTTPError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} answered {error.response.status_code} "
            f"({spec.retry_attempts + 1} attempts); check the token, or try later"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} does not give its card; check the network, or try later"
        ) from error
    except httpx.HTTPError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} cannot be reached: {error} ({spec.retry_attempts + 1} attempts); "
            "check the network and HF_ENDPOINT"
        ) from error


def _builder(spec: HfSpec, place: str, *, cards: Iterable[Path], **options: Any) -> datasets.DatasetBuilder:
    """What `datasets` makes of the dataset's cards and listing."""
    # Listings and refusals are kept as long as the process lives: terms accepted since would not be seen.
    HfFileSystem.clear_instance_cache()
    # Without a cache folder of its own it would fall back on an older copy of the dataset in silence.
    with TemporaryDirectory() as cache, _translated(spec, options.get("revision", "")):
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
            f"{f'; {_CONVERTED}' if spec.dataset else ''}"
        )
    return files


def _no_split(spec: HfSpec, there_are: Iterable[str]) -> SourceFormatError:
    return SourceFormatError(f"dataset '{spec.shown}' has no split '{spec.split}'; there are: {', '.join(there_are)}")


def _kind(builder: datasets.DatasetBuilder, spec: HfSpec) -> FileFormat:
    name = type(builder.config).__module__.rpartition(".")[2]
    if name not in _KINDS:
        raise SourceFormatError(
            f"dataset '{spec.shown}' consists of files of the kind '{name}'; {', '.join(_KINDS)} are read"
            f"{f'; {_CONVERTED}' if spec.dataset else ''}"
        )
    return _KINDS[name]


def _reading(builder: datasets.DatasetBuilder, spec: HfSpec, kind: FileFormat) -> FileSpec:
    """How the files are written, in the words of our own formats."""
    config = builder.config
    ours, theirs = _in_our_words(kind, config)
    if theirs:
        shown = ", ".join(f"{name}={getattr(config, name)!r}" for name in sorted(theirs))
        raise SourceFormatError(
            f"dataset '{spec.shown}' has its {kind} files read with {shown}, which is not done here"
            f"{f'; {_CONVERTED}' if spec.dataset else ''}"
        )
    return FileSpec(**_shared(spec), **ours)


def _shared(spec: HfSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("format", "fields", "defaults", "max_line_bytes")}


def _in_our_words(kind: FileFormat, config: Any) -> tuple[dict[str, Any], set[str]]:
    """What the config says that our formats know, and the names of the options that they do not."""
    theirs = _given_options(config)
    ours: dict[str, Any] = {}
    if kind == "csv" and len(config.sep) == 1:
        ours["delimiter"] = config.sep
        theirs -= {"sep", "delimiter"}
    if kind == "json" and config.field:
        ours["records"] = config.field
        theirs -= {"field"}
    if kind == "text" and config.sample_by in {"line", "paragraph"}:
        ours["split"] = config.sample_by
        theirs -= {"sample_by"}
    if str(getattr(config, "encoding", "")).lower().replace("-", "") == "utf8":
        theirs -= {"encoding"}
    return ours, theirs


def _given_options(config: datasets.BuilderConfig) -> set[str]:
    """Names of the options whose value is not the default."""
    plain = type(config)()
    of_every_kind = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
    names = {field.name for field in dataclasses.fields(config)} - of_every_kind - _HARMLESS
    return {name for name in names if getattr(config, name) != getattr(plain, name)}
