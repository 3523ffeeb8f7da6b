"""YAML with the line of every key; only plain data, no duplicate keys, no anchors, bounded size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapter_service.errors import SettingsError

MAX_BYTES = 1_048_576
MAX_DEPTH = 20

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """What a file says, and where: `lines` has the line of each key (list items: 'key', '0').

    `faults` are keys that stand in it twice, of which the first is kept, and those that are no words.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    faults: Sequence[str] = ()

    def place(self, path: KeyPath) -> str:
        """Where a key stands, for messages; the nearest key above it if it is not in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name} line {self.lines[path[:end]]}"
        return self.name

    def lines_below(self, path: KeyPath) -> dict[str, int]:
        """Dotted keys below `path` with their lines."""
        return {
            ".".join(key[len(path) :]): line
            for key, line in self.lines.items()
            if len(key) > len(path) and key[: len(path)] == path
        }


class _Loader(yaml.SafeLoader):
    """SafeLoader without anchors, whose expansion is unbounded, and with `1e-3` as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed; write it out", mark)
        return super().compose_node(parent, index)


# YAML 1.1 wants a dot and a sign (1.0e-3); everybody writes 1e-3 and PyYAML would give a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_document(path: Path) -> Document:
    """Parse one file; a fault that leaves the rest to be read is in `faults`, with its line.

    Raises:
        SettingsError: it cannot be read, or is not a YAML mapping of plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give the path of an existing YAML file"
        ) from error
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{path.name}: {len(content)} bytes; at most {MAX_BYTES} are read: shorten it")
    try:
        return parse_document(content.decode(), name=path.name)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def parse_document(text: str, *, name: str) -> Document:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(name)
        walk = _Walk(loader, name)
        values = walk.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name} line {mark.line + 1}" if mark else name
        raise SettingsError(f"{place}: not valid YAML: {error.problem}; mend that line") from error
    except RecursionError as error:
        raise SettingsError(f"{name}: deeper than {MAX_DEPTH} levels; write it flatter") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{name}: not valid YAML: {error}; mend it") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise SettingsError(f"{name} line 1: holds a {type(values).__name__}; write a mapping (key: value)")
    return Document(name, values, walk.lines, walk.faults)


def parse_value(text: str) -> Any:
    """One value as it would stand in YAML, for environment variables; text that is no YAML stays text."""
    try:
        document = parse_document(f"value: {text}", name="value")
    except SettingsError:
        return text
    value = document.values["value"]
    if document.faults:
        return text
    return text if value is None and text not in {"", "~", "null"} else value


class _Walk:
    """Turns YAML nodes into plain values and notes the line of each key."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[str] = []
        self._loader = loader
        self._name = name

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if len(path) > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"deeper than {MAX_DEPTH} levels", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return self._loader.construct_object(node, deep=True)

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(f"{self._name} line {line}: a key is not a plain word; write key: value")
            elif key in values:
                first = self.lines[*path, key]
                dotted = ".".join((*path, key))
                self.faults.append(f"{self._name} line {line}: '{dotted}' was given in line {first} already; keep one")
            else:
                self.lines[*path, key] = line
                values[key] = self.value(value_node, (*path, key))
        return values
