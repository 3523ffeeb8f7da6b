"""A configured source as mcp_connectors.yml names it; what its options mean is its connector's affair."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from adapter_service.errors import SettingsError
from adapter_service.home_folders import expanded

# The kind whose `sources` are names of other entries.
MIX = "mix"
VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class SourceEntry(BaseModel):
    """One named source: the kind of its connector, and that connector's options as written.

    `${VAR}` and `${VAR:-default}` stand in `options` until the source is opened, so that no
    secret is held, dumped or logged before it is needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    options: Mapping[str, Any] = {}
    line: int = Field(default=0, exclude=True)
    file: str = Field(default="mcp_connectors.yml", exclude=True)
    lines: Mapping[str, int] = Field(default={}, exclude=True)
    """Option (`url`, `headers.Accept`) → line, for `validate_section`."""
    folder: Path | None = Field(default=None, exclude=True)
    """What a relative `path` counts from: the folder of the file."""
    parts: Mapping[str, SourceEntry] = Field(default={}, exclude=True)
    """Of a mix, the entries that its `sources` name."""

    def resolved_options(self, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The options with variables replaced and `path` made absolute; for the moment of opening.

        Raises:
            SettingsError: a variable without a default is not set, or a home folder not known.
        """
        options = {
            key: self._resolve(value, os.environ if environ is None else environ, key)
            for key, value in self.options.items()
        }
        path = options.get("path")
        if self.folder is not None and isinstance(path, str):
            options["path"] = str(self.folder / expanded(path, where=f"{self._place('path')}: source '{self.name}'"))
        return options

    def values_of_variables(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Name → value of every `${VAR}` that takes its value from the environment: never to be shown."""
        environ = os.environ if environ is None else environ
        return {name: environ[name] for name in variables(dict(self.options)) if environ.get(name)}

    def _resolve(self, value: Any, environ: Mapping[str, str], key: str) -> Any:
        if isinstance(value, Mapping):
            return {k: self._resolve(v, environ, f"{key}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [self._resolve(item, environ, key) for item in value]
        if isinstance(value, str):
            return VARIABLE.sub(lambda match: self._value(match, environ, key), value)
        return value

    def _value(self, match: re.Match[str], environ: Mapping[str, str], key: str) -> str:
        value = environ.get(match["name"]) or match["default"]
        if value is None:
            raise SettingsError(
                f"{self._place(key)}: source '{self.name}' needs the environment variable {match['name']} for '{key}', "
                f"which is not set; export {match['name']}=… and start again"
            )
        return value

    def _place(self, key: str) -> str:
        line = self.lines.get(key, self.line)
        return f"{self.file} line {line}" if line else self.file


def variables(value: Any) -> Iterator[str]:
    """Names of all `${VAR}` in a structure."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from variables(item)
    elif isinstance(value, str):
        yield from (match["name"] for match in VARIABLE.finditer(value))


def with_values(texts: Mapping[str, str], environ: Mapping[str, str], *, whose: str) -> dict[str, str]:
    """`texts` with the value of every `${VAR}`; one that is empty then is left out.

    Raises:
        SettingsError: a variable without a default is not set; `whose` it is comes first.
    """

    def value(match: re.Match[str]) -> str:
        found = environ.get(match["name"]) or match["default"]
        if found is None:
            raise SettingsError(
                f"{whose} needs the environment variable {match['name']}, which is not set; "
                f"export {match['name']}=… and start again"
            )
        return found

    replaced = {key: VARIABLE.sub(value, text) for key, text in texts.items()}
    return {key: text for key, text in replaced.items() if text}
