"""The older service's ways to list sources, read as entries of today's `sources:`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

Options = dict[str, Any]

# Whole groups that have no counterpart.
NO_EFFECT = {
    "streaming_config": "batches, time-outs and retries are the connectors' own; see 'data.shuffle_buffer'",
    "poll_interval_seconds": "a source is read when a job asks for it, not polled",
    "max_backoff_seconds": "connectors have their own bounds on retries",
    "request_timeout_seconds": "connectors have their own time-outs",
    "sink": "samples go into training, not into a file",
}
# Options of one source that have no counterpart.
NO_EFFECT_OPTIONS = {
    "streaming": "sources are always streamed",
    "method": "sources are read with GET",
}
GROUPS = {"hf_sources": "hf", "s3_sources": "s3", "qdrant_sources": "qdrant", "http_sources": "http"}
LIST = "connectors"


def http_options(options: Mapping[str, Any]) -> Options:
    """base_url + endpoint + params → url; auth_env_token → a header with ${VAR}.

    Raises:
        ValueError: `params` or `headers` is no mapping.
    """
    new = dict(options)
    base, endpoint = (str(new.pop(key, None) or "") for key in ("base_url", "endpoint"))
    if base:
        new["url"] = f"{base.rstrip('/')}/{endpoint.lstrip('/')}" if endpoint else base
    if params := _mapping(new.pop("params", None), "params"):
        new["url"] = f"{new.get('url', '')}{'&' if '?' in str(new.get('url')) else '?'}{urlencode(params)}"
    if token := new.pop("auth_env_token", None):
        new["headers"] = {**_mapping(new.get("headers"), "headers"), "Authorization": f"Bearer ${{{token}}}"}
    return new


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):  # which is not shown: it may hold a secret
        raise ValueError(f"'{key}' is a {type(value).__name__}; write a mapping (name: value)")
    return value or {}


def s3_options(options: Mapping[str, Any]) -> Options:
    """An entry without a prefix means the whole bucket."""
    return {**options} if {"key", "prefix"} & options.keys() else {**options, "prefix": ""}


def hf_options(options: Mapping[str, Any]) -> Options:
    """dataset_name and config_name → dataset and config."""
    names = {"dataset_name": "dataset", "config_name": "config"}
    return {names.get(key, key): value for key, value in options.items()}


def without_effect(options: Mapping[str, Any]) -> tuple[Options, dict[str, str]]:
    """Split options into those that count and those that do not, with the reason."""
    kept = {key: value for key, value in options.items() if key not in NO_EFFECT_OPTIONS}
    return kept, {key: NO_EFFECT_OPTIONS[key] for key in options if key in NO_EFFECT_OPTIONS}


CONVERSIONS: dict[str, Callable[[Mapping[str, Any]], Options]] = {
    "hf": hf_options,
    "http": http_options,
    "s3": s3_options,
}
