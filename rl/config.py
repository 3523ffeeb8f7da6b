"""rl_config.yaml: read, and refused with every fault at once.

The keys are those of the older service's file where they mean the same. Secrets are in no file and in
no option: boto3 finds its own, and RL_UPLOAD_TOKEN goes with uploads over HTTP.
"""

from __future__ import annotations

import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml

from rl.errors import ConfigError
from rl.rewards import Bounds, RewardSettings

MAX_BYTES = 1 << 20
_SECRETS = {"aws_access_key", "aws_secret_key", "aws_access_key_id", "aws_secret_access_key", "upload_token"}
NO_SECRETS = (
    "secrets are not taken from files and options: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; "
    "RL_UPLOAD_TOKEN for uploads over HTTP"
)

MAY_BE_BLANK = "may be blank"
Count = Annotated[int, Bounds(1, 1_000_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Who is asked, and how; null leaves it to the service."""

    service_url: str = "http://127.0.0.1:8100"
    adapter: str | None = None
    base_model: str | None = None
    max_new_tokens: Annotated[int, Bounds(1, 1_048_576)] | None = 64
    temperature: Annotated[float, Bounds(0.0, 2.0)] | None = 0.7
    top_p: Annotated[float, Bounds(0.0, 1.0)] | None = None
    top_k: Annotated[int, Bounds(0, 1_000_000)] | None = None
    repetition_penalty: Annotated[float, Bounds(0.0, 10.0)] | None = 1.0
    foreign_script_penalty: Annotated[float, Bounds(0.0, 100.0)] | None = 0.0
    seed: Annotated[int, Bounds(0, 2**63 - 1)] | None = None
    timeout_seconds: Annotated[float, Bounds(0.1, 86_400.0)] = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSettings:
    max_episodes: Count = 10
    env_name: str = "mcp-lite"
    output_path: str = "rl_runs/episodes.jsonl"
    shard_max_mb: Annotated[int, Bounds(1, 65_536)] = 32
    shard_max_seconds: Annotated[float, Bounds(1.0, 31_536_000.0)] = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    upload_enabled: bool = False
    upload_path: str | None = None
    s3_bucket: str | None = None
    s3_key: str = "rl_episodes/{run_id}/episodes.jsonl"
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    attempts: Annotated[int, Bounds(1, 100)] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`language` is a BCP-47 tag or a name that the service knows."""

    prompt: str
    language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything of rl_config.yaml."""

    model: ModelSettings = ModelSettings()
    episodes: EpisodeSettings = EpisodeSettings()
    cloud: CloudSettings = CloudSettings()
    reward: RewardSettings = field(default_factory=RewardSettings)
    prompts: tuple[Prompt, ...] = field(default=())


def read_config(path: Path) -> Config:
    """Read and check the file.

    Raises:
        ConfigError: it cannot be read, or holds what is unknown or impossible; every fault is in it.
    """
    faults: list[str] = []
    document = _document(path)
    sections: dict[str, Any] = {}
    kinds = {name: kind for name, kind in typing.get_type_hints(Config).items() if name != "prompts"}
    for name, values in document.items():
        if name == "prompts":
            sections[name] = _prompts(values, faults)
        elif name not in kinds:
            faults.append(_unknown(name, [*kinds, "prompts"]))
        elif not isinstance(values, Mapping):
            faults.append(f"'{name}' is {_shown(values)}; a section with keys is wanted")
        else:
            sections[name] = section(kinds[name], values, name, faults)
    if not faults and "reward" in sections:
        faults += sections["reward"].faults()
    if faults:
        raise ConfigError(_joined(path.name, faults))
    return Config(**sections)


def section(kind: type[Any], values: Mapping[str, Any], name: str, faults: list[str]) -> Any:
    """A section's dataclass from what stands in the file; None, with every fault noted, when it cannot be."""
    hints = typing.get_type_hints(kind, include_extras=True)
    before = len(faults)
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key in _SECRETS:
            faults.append(f"'{name}.{key}': {NO_SECRETS}")
        elif key not in hints:
            faults.append(_unknown(f"{name}.{key}", hints))
        elif fault := _fault(value, hints[key]):
            faults.append(f"'{name}.{key}' is {_shown(value)}; {fault}")
        else:
            given[key] = _as_float(value) if _is_float(hints[key]) else value
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    faults += [f"'{name}.{key}' is missing; add it" for key in missing if key not in values]
    return kind(**given) if len(faults) == before else None


def _prompts(values: Any, faults: list[str]) -> tuple[Prompt, ...]:
    if not isinstance(values, list):
        faults.append(f"'prompts' is {_shown(values)}; a list of texts, or of {{prompt, language}}, is wanted")
        return ()
    found = []
    for place, value in enumerate(values):
        given = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            faults.append(f"'prompts.{place}' is {_shown(value)}; a text or {{prompt, language}} is wanted")
        elif (prompt := section(Prompt, given, f"prompts.{place}", faults)) is not None:
            found.append(prompt)
    return tuple(found)


def _fault(value: Any, hint: Any) -> str | None:
    """What is wrong with a value, in words; None when nothing is."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        member = next(member for member in typing.get_args(hint) if member is not type(None))
        return None if value is None else _fault(value, member)
    if typing.get_origin(hint) is list:
        return _fault_in_list(value, typing.get_args(hint)[0])
    hint, bounds = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint, None)
    return _fault_in_scalar(value, hint, bounds)


def _fault_in_list(values: Any, hint: Any) -> str | None:
    if not isinstance(values, list):
        return "a list is wanted"
    return next((f"in its list {fault}" for value in values if (fault := _fault(value, hint))), None)


def _fault_in_scalar(value: Any, hint: Any, bounds: Any) -> str | None:
    wish = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[hint]
    allowed = (int, float) if hint is float else hint
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        return f"{wish} is wanted"
    if hint is float and isinstance(value, int) and abs(value) > sys.float_info.max:
        return f"{wish} is wanted, of at most {sys.float_info.max:g}"
    if isinstance(value, str) and not value.strip() and bounds != MAY_BE_BLANK:
        return "it is blank: write it, or leave it out"
    if isinstance(bounds, Bounds) and not bounds.least <= value <= bounds.most:
        return f"{wish} from {bounds.least:g} to {bounds.most:g} is wanted"
    return None


def _as_float(value: Any) -> Any:
    if isinstance(value, list):
        return [float(one) for one in value]
    return None if value is None else float(value)


def _is_float(hint: Any) -> bool:
    return hint is float or any(_is_float(member) for member in typing.get_args(hint))


def _unknown(path: str, allowed: Iterable[str]) -> str:
    names, word = sorted(allowed), path.rpartition(".")[2]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"unknown key '{path}'; {guess}allowed: {', '.join(names)}"


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)[:80]


def _joined(name: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{name}: {faults[0]}"
    return f"{name} has {len(faults)} faults:\n" + "\n".join(f"  {fault}" for fault in faults)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands there twice, of which it would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [str(key.value) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing file with --config") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path.name}: {len(content)} bytes; at most {MAX_BYTES} are read: shorten it")
    try:
        document = yaml.load(content.decode(), _Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        place = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path.name}{place}: not valid YAML: {error.problem}; mend that line") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not valid YAML ({error}); mend it") from error
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path.name}: holds no sections; write key: value")
    return {str(key): value for key, value in document.items()}
