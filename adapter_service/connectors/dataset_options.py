"""How the files of a dataset are written, as `datasets` has it from the card, in the words of our own formats."""

from __future__ import annotations

import dataclasses
from typing import Any

import datasets

from adapter_service.connectors.dataset_spec import HfSpec
from adapter_service.connectors.files import FileFormat, FileSpec
from adapter_service.connectors.hub import CONVERTED
from adapter_service.errors import SourceFormatError

_KINDS: dict[str, FileFormat] = {"json": "json", "csv": "csv", "text": "text", "parquet": "parquet", "arrow": "arrow"}

# Options of `datasets` for the files of a config that change nothing about which records there are.
_HARMLESS = frozenset({
    "batch_size", "block_size", "chunksize", "columns", "encoding_errors", "engine", "features", "float_precision",
    "fragment_scan_options", "keep_linebreaks", "memory_map", "newlines_in_values", "on_bad_files", "on_bad_lines",
    "on_mixed_types", "parse_agent_traces", "use_threads", "verbose"
})  # fmt: skip


def kind_of(builder: datasets.DatasetBuilder, spec: HfSpec) -> FileFormat:
    """The format of those whose names do not show it."""
    name = type(builder.config).__module__.rpartition(".")[2]
    if name not in _KINDS:
        raise SourceFormatError(
            f"dataset '{spec.shown}' consists of files of the kind '{name}'; {', '.join(_KINDS)} are read"
            f"{f'; {CONVERTED}' if spec.dataset else ''}"
        )
    return _KINDS[name]


def reading_of(builder: datasets.DatasetBuilder, spec: HfSpec, kind: FileFormat) -> FileSpec:
    """How the files are written, in the words of our own formats."""
    config = builder.config
    ours, theirs = _in_our_words(kind, config)
    if theirs:
        shown = ", ".join(f"{name}={getattr(config, name)!r}" for name in sorted(theirs))
        raise SourceFormatError(
            f"dataset '{spec.shown}' has its {kind} files read with {shown}, which is not done here"
            f"{f'; {CONVERTED}' if spec.dataset else ''}"
        )
    return spec.file_spec(**ours)


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
