"""The kinds of connectors, and how a configured source becomes a stream of samples.

A kind is a spec (pydantic) and a class with `check` and `records`, under `@register("kind", …)`.
The built-in ones are imported when a source of their kind is opened; packages of others announce
theirs under the entry point group `adapter_service.connectors`, named like the kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel

from adapter_service.connectors.base import Connector, RecordReader
from adapter_service.connectors.mixing import MixedConnector, MixSpec
from adapter_service.connectors.sample_stream import SampleStream
from adapter_service.connectors.shuffle import ShuffledConnector
from adapter_service.connectors.spec import SourceSpec
from adapter_service.connectors.veiling import Veil, VeiledConnector
from adapter_service.errors import SettingsError
from adapter_service.settings import SourceEntry, validate_section
from adapter_service.settings.sources import MIX
from adapter_service.suggestions import did_you_mean

ENTRY_POINT_GROUP = "adapter_service.connectors"

# Kind → what it reads, for the reference tables.
KINDS: dict[str, str] = {
    "hf": "a dataset on the Hugging Face Hub, or a folder built like one: JSONL, JSON, CSV, text, Parquet, Arrow",
    "http": "a file or API over HTTP(S): JSONL, JSON, CSV, text, each also .gz and .zst, and Parquet; by ranges",
    "local": "files on this machine or a mounted share: JSONL, JSON, CSV, text, each also .gz and .zst, and Parquet",
    "memory": "records that stand in the configuration itself, for tests",
    MIX: "several of the other sources as one, each as often as its weight says",
    "qdrant": "the payloads of a Qdrant collection, from a server or an embedded folder; needs the extra `qdrant`",
    "s3": "one object or all below a prefix, from S3, MinIO or any endpoint like them; formats as for `http`",
}
_MODULES = {kind: f"adapter_service.connectors.{kind}" for kind in KINDS if kind != MIX} | {
    "hf": "adapter_service.connectors.huggingface",
}


class ReaderFactory(Protocol):
    def __call__(self, spec: Any, name: str) -> RecordReader: ...


class Kind(NamedTuple):
    spec: type[SourceSpec]
    reader: ReaderFactory


_registered: dict[str, Kind] = {}
Reader = TypeVar("Reader", bound=ReaderFactory)
Spec = TypeVar("Spec", bound=BaseModel)


def register(kind: str, *, spec: type[SourceSpec]) -> Callable[[Reader], Reader]:
    """Class decorator: sources of this kind are validated by `spec` and read by the class."""

    def decorate(reader: Reader) -> Reader:
        _registered[kind] = Kind(spec, reader)
        return reader

    return decorate


def kind_named(name: str) -> Kind:
    """The kind, imported if it was not yet.

    Raises:
        SettingsError: no such kind.
    """
    if name not in _registered and name in _MODULES:
        importlib.import_module(_MODULES[name])
    if name not in _registered:
        for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            entry_point.load()
    if name not in _registered:
        raise SettingsError(_unknown_kind(name))
    return _registered[name]


def known_kinds() -> list[str]:
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return sorted(KINDS.keys() | _registered.keys() | others)


def _unknown_kind(name: str) -> str:
    known = known_kinds()
    return f"unknown connector kind '{name}'{did_you_mean(name, known)} known kinds: {', '.join(known)}"


def open_source(
    entry: SourceEntry, *, languages: Sequence[str] = (), seed: int = 0, shuffle_buffer: int = 0
) -> Connector:
    """The samples of a configured source; nothing is read or connected to yet.

    `languages` (tags or names) goes before the entry's own; `shuffle_buffer` is how many samples
    are mixed at a time, 0 for the order of the source.

    Raises:
        SettingsError: unknown kind, or options that the kind does not allow.
    """
    variables = entry.values_of_variables()
    veil = Veil(variables)
    with veil.over_errors():
        connector = _mixed(entry, languages, seed) if entry.kind == MIX else _mapped(entry, languages)
    if shuffle_buffer >= 2:
        connector = ShuffledConnector(connector, seed=seed, block_samples=shuffle_buffer)
    return VeiledConnector(connector, veil) if variables else connector


def _mapped(entry: SourceEntry, languages: Sequence[str]) -> Connector:
    kind = _kind_of(entry)
    spec = _validated(kind.spec, entry)
    return SampleStream(kind.reader(spec, entry.name), spec, name=entry.name, languages=languages)


def _mixed(entry: SourceEntry, languages: Sequence[str], seed: int) -> Connector:
    """The parts in the order of their sources: it is the mix that is shuffled."""
    spec = _validated(MixSpec, entry)
    only = languages or spec.languages
    parts = {name: open_source(entry.parts[name], languages=only, seed=seed) for name in spec.sources}
    return MixedConnector(parts, spec, name=entry.name, seed=seed)


def _validated(spec: type[Spec], entry: SourceEntry) -> Spec:
    return validate_section(
        spec,
        entry.resolved_options(),
        where=entry.file,
        lines=entry.lines or entry.line or None,
        prefix=entry.name,
    )


def _kind_of(entry: SourceEntry) -> Kind:
    try:
        return kind_named(entry.kind)
    except SettingsError as error:
        place = f"{entry.file} line {entry.line}" if entry.line else entry.file
        raise SettingsError(f"{place}: source '{entry.name}': {error}") from None
