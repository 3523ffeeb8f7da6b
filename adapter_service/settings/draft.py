"""Settings on their way in: values from several places, where each was written, and what is wrong so far."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from adapter_service.settings.faults import faults_of
from adapter_service.settings.reading import KeyPath
from adapter_service.settings.section import Section
from adapter_service.settings.sections import SECTIONS


@dataclass
class Draft:
    """Collects everything before anything is refused, so that one run shows every fault."""

    values: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    places: dict[KeyPath, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, path: KeyPath, value: Any, place: str) -> None:
        """Set one key (section, key); a later place wins over an earlier one."""
        self.values[path[0]][path[1]] = value
        self.places[path] = place

    def place(self, path: KeyPath) -> str:
        """Where the nearest known key above `path` was written."""
        return next(
            (self.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.places),
            "settings",
        )

    def sections(self) -> Mapping[str, Section]:
        """Every section that is as its model wants it; the others leave their faults."""
        found: dict[str, Section] = {}
        for name, model in SECTIONS.items():
            try:
                found[name] = model.model_validate(self.values[name])
            except ValidationError as error:
                place = _below(self, name)
                self.faults += faults_of(error, model, place=place, prefix=(name,))
        return found


def _below(draft: Draft, name: str) -> typing.Callable[[KeyPath], str]:
    return lambda path: draft.place((name, *path))
