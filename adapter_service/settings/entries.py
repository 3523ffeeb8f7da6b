"""mcp_connectors.yml → named source entries, today's form and the older ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapter_service.settings import older_sources
from adapter_service.settings.draft import Draft
from adapter_service.settings.faults import unknown_key
from adapter_service.settings.masking import masked
from adapter_service.settings.reading import Document, KeyPath
from adapter_service.settings.sources import MIX, SourceEntry
from adapter_service.suggestions import did_you_mean

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_TODAY = "sources"
_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_entries() -> dict[str, SourceEntry]:
    """What there is without any file: the sample corpus in the package."""
    options = {
        "path": str(_PACKAGE / "sample_corpus" / "english_indic.jsonl.gz"),
        "format": "parallel",
    }
    return {"multilingual_corpus": SourceEntry(name="multilingual_corpus", kind="local", options=options)}


class EntryReader:
    """Reads one sources file; faults and notes go to the draft."""

    def __init__(self, draft: Draft, document: Document, folder: Path) -> None:
        self._draft = draft
        self._document = document
        self._folder = folder
        self.entries: dict[str, SourceEntry] = {}

    def read(self) -> dict[str, SourceEntry]:
        for key, content in self._document.values.items():
            place = self._document.place((key,))
            if why := older_sources.NO_EFFECT.get(key):
                self._draft.notes.append(f"{place}: older key '{key}' has no effect: {why}")
            elif key == _TODAY or key in older_sources.GROUPS:
                self._read_group(key, content, older_sources.GROUPS.get(key))
            elif key == older_sources.LIST:
                self._read_list(content)
            else:
                self._draft.faults.append(f"{place}: {unknown_key((key,), [_TODAY])}")
        for name, entry in self.entries.items():
            if entry.kind == MIX:
                self.entries[name] = entry.model_copy(update={"parts": self._parts_of(entry)})
        return self.entries

    def _read_group(self, group: str, content: Any, kind: str | None) -> None:
        if not isinstance(content, Mapping | None):
            self._fault((group,), f"'{group}' is {content!r}; write a mapping of names below it")
            return
        for name, options in (content or {}).items():
            path = (group, name)
            if not isinstance(options, Mapping):
                self._fault(path, f"source '{name}' is {options!r}; write a mapping with 'kind' and its options")
            elif kind is not None:
                self._add_older(name, kind, options, path)
            elif not isinstance(options.get("kind"), str):
                self._fault(path, f"source '{name}' has no 'kind'; add one, e.g. kind: http")
            else:
                rest = {key: value for key, value in options.items() if key != "kind"}
                self._add(name, options["kind"], rest, path)

    def _read_list(self, content: Any) -> None:
        if not isinstance(content, list):
            self._fault((older_sources.LIST,), f"'{older_sources.LIST}' is {content!r}; write a list of entries")
            return
        for i, item in enumerate(content):
            path = (older_sources.LIST, str(i))
            if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
                self._fault(path, f"an entry of '{older_sources.LIST}' has no 'name'; add one")
            elif str(item.get("method", "GET")).upper() != "GET":
                self._fault(path, f"source '{item['name']}' has method {item['method']!r}; only GET is possible")
            else:
                rest = {key: value for key, value in item.items() if key not in {"name", "type"}}
                self._add_older(item["name"], str(item.get("type", "http")), rest, path)

    def _add_older(self, name: str, kind: str, options: Mapping[str, Any], path: KeyPath) -> None:
        place = self._document.place(path)
        self._draft.notes.append(f"{place}: older entry '{name}' is read as a source of kind '{kind}'")
        kept, dropped = older_sources.without_effect(options)
        for key, why in dropped.items():
            where = self._document.place((*path, key))
            self._draft.notes.append(f"{where}: older option '{key}' of source '{name}' has no effect: {why}")
        convert = older_sources.CONVERSIONS.get(kind, dict)
        try:
            converted = convert(kept)
        except ValueError as error:
            self._fault(path, f"source '{name}': {error}")
        else:
            self._add(name, kind, converted, path)

    def _add(self, name: str, kind: str, options: dict[str, Any], path: KeyPath) -> None:
        if not _NAME.match(name):
            self._fault(path, f"source name {name!r}; use letters, digits, '.', '_' and '-', at most 64")
        elif name in self.entries:
            first = self.entries[name].line
            self._fault(path, f"source '{name}' was given in line {first} already; rename one")
        else:
            if kind != MIX:  # whose keys are names of sources, such as `secretary_letters`
                self._refuse_secrets(name, options, path)
            self.entries[name] = SourceEntry(
                name=name,
                kind=kind,
                options=options,
                line=self._document.lines.get(path, 0),
                file=self._document.name,
                lines=self._document.lines_below(path),
                folder=self._folder,
            )

    def _parts_of(self, mix: SourceEntry) -> dict[str, SourceEntry]:
        """The entries that a mix is made of; a name that is none of them, or is a mix, is a fault."""
        named = mix.options.get("sources")
        parts: dict[str, SourceEntry] = {}
        for name in named if isinstance(named, Mapping) else ():
            entry = self.entries.get(name)
            place = f"{mix.file} line {mix.lines.get(f'sources.{name}', mix.line)}"
            if entry is None:
                possible = sorted(name for name, other in self.entries.items() if other.kind != MIX)
                self._draft.faults.append(
                    f"{place}: mix '{mix.name}' names the source '{name}', which there is not"
                    f"{did_you_mean(name, possible)} sources: {', '.join(possible) or 'none'}"
                )
            elif entry.kind == MIX:
                what = "itself" if name == mix.name else f"'{name}', which is a mix too"
                self._draft.faults.append(
                    f"{place}: mix '{mix.name}' names {what}; name the sources in it, each with its weight"
                )
            else:
                parts[name] = entry
        return parts

    def _refuse_secrets(self, name: str, options: dict[str, Any], path: KeyPath) -> None:
        for key in _written_secrets(options):
            variable = re.sub(r"\W", "_", f"{name}_{key[-1]}").upper()
            self._fault(
                (*path, *key),
                f"'{'.'.join(key)}' of source '{name}' holds a secret; put it into an environment variable "
                f"and write ${{{variable}}}",
            )

    def _fault(self, path: KeyPath, text: str) -> None:
        self._draft.faults.append(f"{self._document.place(path)}: {text}")


def _written_secrets(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Keys whose secret is written out instead of named by ${VAR}."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _written_secrets(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _written_secrets(item, path)
    elif path and value not in (None, "") and "${" not in str(value) and masked(value, path[-1]) != value:
        yield path
