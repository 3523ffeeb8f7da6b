"""ADAPTER_* variables: `ADAPTER_<SECTION>__<KEY>` sets one key, and a misspelt one is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapter_service.settings.draft import Draft
from adapter_service.settings.reading import KeyPath, parse_value
from adapter_service.settings.sections import SECTIONS
from adapter_service.suggestions import did_you_mean

PREFIX = "ADAPTER_"
CONFIG, SOURCES, STATE_DIR = "ADAPTER_CONFIG", "ADAPTER_SOURCES", "ADAPTER_STATE_DIR"
# No setting: what clients of ours show to a service that wants a key.
API_KEY = "ADAPTER_API_KEY"

KEYS: dict[str, KeyPath] = {
    f"{PREFIX}{section}__{key}".upper(): (section, key)
    for section, model in SECTIONS.items()
    for key in model.model_fields
}

# Variables of the older services that begin alike.
OLDER = {
    "ADAPTER_PAUSE_SERVING_DURING_TRAINING": (
        "training and serving share one base and take turns, so serving is never paused"
    ),
}


def put_environment(draft: Draft, environ: Mapping[str, str], *, referenced: Iterable[str] = ()) -> None:
    """Lay the variables over what the file said; `referenced` are those that sources name as ${VAR}."""
    known = {CONFIG, SOURCES, STATE_DIR, API_KEY, *referenced}
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        if name in KEYS:
            draft.put(KEYS[name], _value(KEYS[name], environ[name]), f"environment variable {name}")
        elif name in OLDER:
            draft.notes.append(f"environment variable {name} has no effect: {OLDER[name]}")
        elif name not in known:
            draft.faults.append(_unknown(name, [*KEYS, *known]))
    _put_state_dir(draft, environ)


def _put_state_dir(draft: Draft, environ: Mapping[str, str]) -> None:
    long = f"{PREFIX}STORAGE__STATE_DIR"
    if not environ.get(STATE_DIR):
        return
    if environ.get(long, environ[STATE_DIR]) != environ[STATE_DIR]:
        draft.faults.append(f"environment variables {STATE_DIR} and {long} differ; keep one")
    draft.put(("storage", "state_dir"), environ[STATE_DIR], f"environment variable {STATE_DIR}")


def _unknown(name: str, known: list[str]) -> str:
    return (
        f"environment variable {name}: unknown{did_you_mean(name, known)} allowed: {STATE_DIR}, {CONFIG}, {SOURCES} "
        f"and {PREFIX}<SECTION>__<KEY> with a key of adapter_config.yaml, e.g. {PREFIX}SERVING__PORT"
    )


def _value(path: KeyPath, text: str) -> Any:
    """Lists, mappings and null as YAML; anything else is text, which the section's model converts."""
    section, key = path
    annotation = str(SECTIONS[section].model_fields[key].annotation)
    structured = "list" in annotation or "dict" in annotation
    return parse_value(text) if structured or text in {"", "null"} else text
