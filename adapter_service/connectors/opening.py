"""From what a request calls a source to its connector: a configured name, or an address where that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_service.connectors.base import Connector
from adapter_service.connectors.raw import is_raw, open_raw
from adapter_service.connectors.registry import open_source
from adapter_service.errors import UnknownSourceError
from adapter_service.settings import Settings, SourceEntry
from adapter_service.suggestions import did_you_mean


def source_opener(settings: Settings, *, at_command_line: bool = False) -> Callable[[str], Connector]:
    """Opens sources with the run's languages, seed and shuffle buffer.

    At the command line the operator may also name a file, and any public address.
    """
    how: dict[str, Any] = {
        "languages": settings.data.languages,
        "seed": settings.training.seed,
        "shuffle_buffer": settings.data.shuffle_buffer,
    }
    allow_list = None if at_command_line else settings.security.raw_sources

    def opener(name: str) -> Connector:
        if name not in settings.sources and (is_raw(name) or (at_command_line and Path(name).is_file())):
            return open_raw(name, allow_list, allow_local=at_command_line, **how)
        return open_source(configured(settings, name), **how)

    return opener


def configured(settings: Settings, name: str) -> SourceEntry:
    """The entry of a configured source.

    Raises:
        UnknownSourceError: there is none of that name.
    """
    if name not in settings.sources:
        known = ", ".join(sorted(settings.sources)) or "none; name some in mcp_connectors.yml"
        hint = did_you_mean(name, settings.sources)
        raise UnknownSourceError(f"unknown source {name[:200]!r}{hint} known sources: {known}")
    return settings.sources[name]
