"""Find the two files, lay the environment over them, and refuse everything wrong at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_service.errors import SettingsError
from adapter_service.home_folders import expanded
from adapter_service.settings import environment
from adapter_service.settings.backend_section import BackendSettings
from adapter_service.settings.draft import Draft
from adapter_service.settings.entries import EntryReader, shipped_entries
from adapter_service.settings.environment import put_environment
from adapter_service.settings.faults import settings_error
from adapter_service.settings.older_config import put_config
from adapter_service.settings.reading import Document, read_document
from adapter_service.settings.section import Section
from adapter_service.settings.sections import (
    DataSettings,
    RlSettings,
    SecuritySettings,
    ServingSettings,
    Settings,
    StorageSettings,
)
from adapter_service.settings.sources import SourceEntry, variables
from adapter_service.suggestions import did_you_mean

CONFIG_NAME = "adapter_config.yaml"
SOURCES_NAME = "mcp_connectors.yml"
_SHIPPED = Path(__file__).resolve().parents[2]


def load_settings(
    config_path: Path | str | None = None,
    sources_path: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read both files and the environment.

    A file is, in this order: the one given, the one that ADAPTER_CONFIG or ADAPTER_SOURCES names,
    the one in the current folder, the one shipped beside the package; without any, the defaults hold.

    Raises:
        SettingsError: with every fault of both files and the environment, each with its line.
    """
    environ = os.environ if environ is None else environ
    draft = Draft()
    config = _find(config_path, environ.get(environment.CONFIG), CONFIG_NAME)
    sources = _find(sources_path, environ.get(environment.SOURCES), SOURCES_NAME)
    put_config(draft, _read(draft, config))
    entries = _entries(draft, sources)
    with_variables = [draft.values[section] for section in ("publishing", "artifacts", "mqtt", "backend")]
    referenced = variables([*(dict(entry.options) for entry in entries.values()), *with_variables])
    put_environment(draft, environ, referenced=referenced)
    sections = dict(draft.sections())
    _place_state_dir(draft, sections, config)
    _check_together(draft, sections, entries, sources)
    _fit_to_backend(draft, sections)
    if draft.faults:
        raise settings_error(draft.faults)
    found: dict[str, Any] = {**sections, "sources": entries, "notes": tuple(draft.notes)}
    return Settings(**found, config_path=config, sources_path=sources)


def _find(given: Path | str | None, named: str | None, name: str) -> Path | None:
    if given or named:
        return expanded(given or named or "", where=name).absolute()
    return next((path for folder in (Path.cwd(), _SHIPPED) if (path := folder / name).is_file()), None)


def _read(draft: Draft, path: Path | None) -> Document:
    if path is None:
        return Document("built-in settings")
    try:
        document = read_document(path)
    except SettingsError as error:
        draft.faults += str(error).splitlines()
        return Document(path.name)
    draft.faults += document.faults
    return document


def _entries(draft: Draft, path: Path | None) -> dict[str, SourceEntry]:
    if path is None:
        return shipped_entries()
    return EntryReader(draft, _read(draft, path), path.parent).read()


def _place_state_dir(draft: Draft, sections: dict[str, Section], config: Path | None) -> None:
    """Make `state_dir` absolute: from the file's folder if the file (or nobody) names it, else from here."""
    storage = sections.get("storage")
    if not isinstance(storage, StorageSettings):
        return
    by_environment = draft.places.get(("storage", "state_dir"), "").startswith("environment")
    folder = Path.cwd() if config is None or by_environment else config.parent
    try:
        state_dir = expanded(storage.state_dir, where=f"{draft.place(('storage', 'state_dir'))}: 'storage.state_dir'")
    except SettingsError as error:
        draft.faults.append(str(error))
        return
    sections["storage"] = storage.model_copy(update={"state_dir": (folder / state_dir).absolute()})


def _check_together(
    draft: Draft, sections: Mapping[str, Section], entries: Mapping[str, SourceEntry], path: Path | None
) -> None:
    """What no section can see alone."""
    data, security = sections.get("data"), sections.get("security")
    if isinstance(data, DataSettings) and isinstance(security, SecuritySettings):
        prefixes = tuple(security.raw_sources)
        for key, name in (("source", data.source), ("fallback_source", data.fallback_source)):
            if name is not None and name not in entries and not (prefixes and name.startswith(prefixes)):
                _report_unknown_source(draft, key, name, entries, path)


def _fit_to_backend(draft: Draft, sections: dict[str, Section]) -> None:
    """Servers of others count a penalty in their own way: what nobody asks for is left out, here and in gates."""
    backend, serving, rl = sections.get("backend"), sections.get("serving"), sections.get("rl")
    if not isinstance(backend, BackendSettings) or backend.kind == "engine":
        return
    if isinstance(serving, ServingSettings):
        sections["serving"] = serving.model_copy(update={"repetition_penalty": 1.0, "foreign_script_penalty": 0.0})
        draft.notes.append(
            f"'backend.kind' is {backend.kind}: 'serving.repetition_penalty' and 'serving.foreign_script_penalty' are "
            "the engine's own and have no effect; a request may ask for a repetition_penalty, which then counts the "
            "prompt's tokens too"
        )
    if backend.kind == "llama.cpp" and isinstance(rl, RlSettings) and rl.log_generations:
        draft.faults.append(
            f"{draft.place(('rl', 'log_generations'))}: 'rl.log_generations' is true and 'backend.kind' llama.cpp, "
            "whose server does not tell every token of an answer; turn one of them off, or take vllm"
        )


def _report_unknown_source(
    draft: Draft, key: str, name: str, entries: Mapping[str, SourceEntry], path: Path | None
) -> None:
    file = path.name if path else "the built-in sources"
    known = ", ".join(sorted(entries)) or "none"
    text = f"'data.{key}' is '{name}', which {file} does not name{did_you_mean(name, entries)} sources: {known}"
    if ("data", key) in draft.places:
        draft.faults.append(f"{draft.place(('data', key))}: {text}")
    else:
        # Nobody chose it: those who only serve, or name a source with each job, need not mend it.
        draft.notes.append(f"{text}; set it, or name a source with each job")
