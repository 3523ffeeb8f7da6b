"""What an episode is: one prompt, one answer, how it came about and what it was worth.

A row has every field of the older service's episodes (`run_id`, `episode_index`, `timestamp`, `env_name`,
`prompt`, `output`, `reward`, `latency_s`, `meta`) and what off-policy training needs: token ids, the
log-probabilities of the policy and of the sampling, and which base, tokenizer, template and adapter
version made them. Every row has all fields in one order, and each the same shape or null: Arrow, which
`datasets` reads with, takes no other. What is free is text (`meta.extra`, JSON within JSON).

`load_dataset("json", data_files=…)` takes the types from the first 10 MB of the first shard, where a
field may be null throughout and have values later: `features=Features.from_dict(features())` tells it
the types, which each shard's manifest has too (`features`), for those who have the files alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rl.errors import RecordError
from rl.rewards import COMPONENTS, RewardSettings, Score, score

SCHEMA_VERSION = 1
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_id() -> str:
    """A ULID: 26 characters that sort by the time they were made, 80 of their bits random."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def checked_run_id(run_id: str) -> str:
    """`run_id`, which becomes part of file names.

    Raises:
        RecordError: it has other characters than letters, digits, `.`, `_` and `-`, or more than 64.
    """
    if _RUN_ID.fullmatch(run_id) is None:
        raise RecordError(
            f"the run id is {run_id[:80]!r}; 1 to 64 letters, digits, '.', '_' or '-' are wanted, a letter or "
            "digit first: choose another"
        )
    return run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who answered. The hashes are those that `/generate-lite` gives; null where they are not known."""

    adapter_id: str | None = None
    adapter_version: int | None = None
    adapter_key: str | None = None
    base_model: str | None = None
    base_sha: str | None = None
    tokenizer_sha: str | None = None
    template_sha: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledWith:
    """How tokens were chosen; null is not known."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    script: str | None = None
    foreign_script_penalty: float | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    seed: int | None = None
    lora_scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The lists of the completion have one length; see `TokenDetails` of the service for what is in them."""

    prompt_token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    completion_logprobs: list[float] | None = None
    sampling_logprobs: list[float] | None = None


def from_details(details: Mapping[str, Any], **beside: Any) -> tuple[Policy, SampledWith, Tokens]:
    """What `/generate-lite` answers as `tokens`, in the words of an episode; what is left out is not known.

    Fields of the policy or of the sampling that stand `beside` it and are not None count instead.
    """
    policy = {name: details.get(name) for name in _DETAILED}
    sampling = details.get("sampling") or {}
    sampled_with = {name: sampling.get(name) for name in SampledWith.__dataclass_fields__}
    for name, value in beside.items():
        if value is not None:
            (sampled_with if name in sampled_with else policy)[name] = value
    tokens = Tokens(
        prompt_token_ids=details.get("prompt_ids"),
        completion_token_ids=details.get("completion_ids"),
        completion_logprobs=details.get("logprobs"),
        sampling_logprobs=details.get("sampling_logprobs"),
    )
    return Policy(**policy), SampledWith(**sampled_with), tokens


_DETAILED = ("adapter_key", "base_model", "base_sha", "tokenizer_sha", "template_sha")


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One prompt and its answer.

    `language` is the BCP-47 tag asked for. A `reward` that is given (by a person, by a task) stands in
    place of ours; the components are worked out all the same. `group_id` is the same for answers to the
    same prompt, which DPO and GRPO compare; without one it is made of the prompt.
    """

    prompt: str
    output: str
    env_name: str
    run_id: str
    source: str
    episode_id: str = field(default_factory=new_id)
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    session_id: str | None = None
    group_id: str | None = None
    policy: Policy = Policy()
    sampled_with: SampledWith = SampledWith()
    tokens: Tokens = Tokens()
    stop_reason: str | None = None
    latency_seconds: float | None = None
    language: str | None = None
    language_ok: bool | None = None
    reward: float | None = None
    trace_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def row_of(episode: Episode, episode_index: int, settings: RewardSettings) -> dict[str, Any]:
    """The episode as it is written, scored.

    Raises:
        RecordError: a number in it is not finite, lists that belong together differ in length, or
            `extra` cannot be written as JSON.
    """
    _check(episode)
    scored = score(
        episode.output,
        prompt=episode.prompt,
        settings=settings,
        language=episode.language,
        language_ok=episode.language_ok,
    )
    at = _utc(episode.timestamp)
    return {
        "schema_version": SCHEMA_VERSION,
        "episode_id": episode.episode_id,
        "run_id": episode.run_id,
        "episode_index": episode_index,
        "timestamp": at,
        "env_name": episode.env_name,
        "session_id": episode.session_id,
        "group_id": episode.group_id or group_of(episode.prompt),
        **asdict(episode.policy),
        "prompt": episode.prompt,
        "prompt_token_ids": episode.tokens.prompt_token_ids,
        "output": episode.output,
        "completion_token_ids": episode.tokens.completion_token_ids,
        "completion_logprobs": episode.tokens.completion_logprobs,
        "sampling_logprobs": episode.tokens.sampling_logprobs,
        "sampling": asdict(episode.sampled_with),
        "stop_reason": episode.stop_reason,
        **_rewarded(episode.reward, scored, at),
        "latency_s": episode.latency_seconds,
        "meta": {
            "source": episode.source,
            "language": episode.language,
            "trace_id": episode.trace_id,
            "extra": as_json(episode.extra),
        },
    }


def features() -> dict[str, Any]:
    """The types of a row, as `datasets.Features.from_dict` takes them."""
    return {name: _feature(kind) for name, kind in _TYPES.items()}


def _feature(kind: Any) -> Any:
    if isinstance(kind, Mapping):
        return {name: _feature(member) for name, member in kind.items()}
    if isinstance(kind, list):
        return {"_type": "List", "feature": _feature(kind[0])}
    return {"_type": "Value", "dtype": kind}


_COMPONENT_TYPES = dict.fromkeys(COMPONENTS, "float64")
_TYPES: dict[str, Any] = {
    "schema_version": "int64",
    **dict.fromkeys(("episode_id", "run_id"), "string"),
    "episode_index": "int64",
    **dict.fromkeys(("timestamp", "env_name", "session_id", "group_id", "adapter_id"), "string"),
    "adapter_version": "int64",
    **dict.fromkeys(("adapter_key", "base_model", "base_sha", "tokenizer_sha", "template_sha", "prompt"), "string"),
    "prompt_token_ids": ["int64"],
    "output": "string",
    "completion_token_ids": ["int64"],
    "completion_logprobs": ["float64"],
    "sampling_logprobs": ["float64"],
    "sampling": {
        "do_sample": "bool",
        **dict.fromkeys(("temperature", "top_p"), "float64"),
        "top_k": "int64",
        "repetition_penalty": "float64",
        "script": "string",
        "foreign_script_penalty": "float64",
        **dict.fromkeys(("max_new_tokens", "min_new_tokens", "seed"), "int64"),
        "lora_scale": "float64",
    },
    "stop_reason": "string",
    "reward": "float64",
    "reward_components": _COMPONENT_TYPES,
    "reward_weights": _COMPONENT_TYPES,
    **dict.fromkeys(("reward_source", "reward_ts"), "string"),
    "latency_s": "float64",
    "meta": dict.fromkeys(("source", "language", "trace_id", "extra"), "string"),
}


def _rewarded(given: float | None, scored: Score, at: str) -> dict[str, Any]:
    return {
        "reward": scored.reward if given is None else given,
        "reward_components": {name: scored.components[name] for name in COMPONENTS},
        "reward_weights": {name: scored.weights[name] for name in COMPONENTS},
        "reward_source": "rl.rewards" if given is None else "given",
        "reward_ts": at,
    }


def _check(episode: Episode) -> None:
    checked_run_id(episode.run_id)
    tokens = episode.tokens
    lists = (tokens.completion_token_ids, tokens.completion_logprobs, tokens.sampling_logprobs)
    if len({len(values) for values in lists if values is not None}) > 1:
        raise RecordError("the completion's token ids and log-probabilities differ in length; give one of each")
    numbers = (episode.reward, episode.latency_seconds, *(tokens.completion_logprobs or ()))
    numbers += tuple(tokens.sampling_logprobs or ())
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise RecordError("a reward, latency or log-probability is not a finite number; leave it out or mend it")


def as_json(extra: Mapping[str, Any]) -> str | None:
    """What is free, as text; None for nothing.

    Raises:
        RecordError: it is more than plain data.
    """
    if not extra:
        return None
    try:
        return json.dumps(extra, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"what is put into 'meta' cannot be written as JSON ({error}); give plain data") from error


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line_of(row: Mapping[str, Any]) -> bytes:
    """The row as a line of JSONL; line breaks within a text are escaped by JSON."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair. Escaped it would be JSON, and one of them keeps Arrow from reading the whole shard.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"


def group_of(prompt: str) -> str:
    """The same for answers to the same prompt, whoever recorded them."""
    return hashlib.sha256(prompt.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]


def new_run_id() -> str:
    """For a run that nobody named."""
    return f"run-{new_id().lower()}"


def process_run_id() -> str:
    """For what one process records while it runs."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(3)}"
