"""Episodes that somebody else made, as JSON objects: which fields they may have, and what is wrong with others."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Annotated, Any

from rl.config import MAY_BE_BLANK, section
from rl.episodes import Episode, SampledWith, from_details
from rl.errors import RecordError
from rl.rewards import Bounds

_Number = Annotated[int, Bounds(0, 2**63 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a line may have beside `meta` and `tokens`; the names are those of the episodes that are written."""

    prompt: str
    output: Annotated[str, MAY_BE_BLANK]
    reward: float | None = None
    language: str | None = None
    language_ok: bool | None = None
    latency_s: float | None = None
    session_id: str | None = None
    group_id: str | None = None
    stop_reason: str | None = None
    adapter_id: str | None = None
    adapter_version: _Number | None = None
    base_model: str | None = None
    temperature: float | None = None
    max_new_tokens: _Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Details:
    """What `tokens` may have beside `sampling`: as `/generate-lite` answers it."""

    prompt_ids: list[_Number] | None = None
    completion_ids: list[_Number] | None = None
    logprobs: list[float] | None = None
    sampling_logprobs: list[float] | None = None
    base_model: str | None = None
    base_sha: str | None = None
    tokenizer_sha: str | None = None
    template_sha: str | None = None
    adapter_key: str | None = None


def episodes_of(lines: IO[str], name: str, *, run_id: str, env_name: str) -> Iterator[Episode]:
    """One episode for each line of JSONL; blank lines are none.

    Raises:
        RecordError: a line is no JSON object, lacks a prompt or an output, or has what is unknown.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield episode_from(_object(line, f"{name} line {number}"), f"{name} line {number}", run_id, env_name)


def episode_from(values: Mapping[str, Any], where: str, run_id: str, env_name: str) -> Episode:
    """The episode that `values` tell of; `meta` is free. What stands beside `tokens` counts, and not what they say."""
    faults: list[str] = []
    known = {key: value for key, value in values.items() if key not in {"meta", "tokens"}}
    extra = values.get("meta", {})
    if not isinstance(extra, Mapping):
        faults.append(f"'meta' is {extra!r:.80}; an object is wanted")
    details = _details(values.get("tokens"), faults)
    found = typing.cast("_Given | None", section(_Given, known, "", faults))
    if found is None or faults:
        raise RecordError(f"{where}: " + "; ".join(fault.replace("'.", "'") for fault in faults))
    policy, sampled_with, tokens = from_details(
        details,
        adapter_id=found.adapter_id,
        adapter_version=found.adapter_version,
        base_model=found.base_model,
        temperature=found.temperature,
        max_new_tokens=found.max_new_tokens,
    )
    return Episode(
        prompt=found.prompt,
        output=found.output,
        env_name=env_name,
        run_id=run_id,
        source="given",
        session_id=found.session_id,
        group_id=found.group_id,
        policy=policy,
        sampled_with=sampled_with,
        tokens=tokens,
        stop_reason=found.stop_reason,
        latency_seconds=found.latency_s,
        language=found.language,
        language_ok=found.language_ok,
        reward=found.reward,
        extra=dict(extra),
    )


def _details(tokens: Any, faults: list[str]) -> Mapping[str, Any]:
    if tokens is None:
        return {}
    sampling = tokens.get("sampling") if isinstance(tokens, Mapping) else None
    if not isinstance(tokens, Mapping) or not isinstance(sampling, Mapping | None):
        faults.append(f"'tokens' is {tokens!r:.80}; an object as /generate-lite answers it is wanted")
        return {}
    named = {key: value for key, value in tokens.items() if key != "sampling"}
    details = section(_Details, named, "tokens", faults)
    sampled_with = section(SampledWith, sampling or {}, "tokens.sampling", faults)
    return {**asdict(details), "sampling": asdict(sampled_with)} if details and sampled_with else {}


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except RecursionError as error:
        raise RecordError(f"{where}: has lists or objects within each other over too many levels") from error
    except ValueError as error:
        raise RecordError(f"{where}: not JSON ({error}); one object on each line is wanted") from error
    if not isinstance(values, dict):
        raise RecordError(f"{where}: holds a {type(values).__name__}; one object on each line is wanted")
    return values
