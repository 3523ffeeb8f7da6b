"""The sections of adapter_config.yaml, each a frozen model with bounds on every number.

adapter_config.yaml explains each key; a test keeps the two alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from adapter_service.home_folders import expanded
from adapter_service.settings.backend_section import BackendSettings
from adapter_service.settings.command_sections import ArtifactSettings, CommandSettings, MqttSettings
from adapter_service.settings.masking import masked
from adapter_service.settings.section import (
    AdapterName,
    Alpha,
    Count,
    CountOrZero,
    Name,
    Rank,
    Section,
    Share,
    Tokens,
    Weight,
)
from adapter_service.settings.sources import SourceEntry, variables
from rl.errors import ConfigError
from rl.rewards import RewardSettings
from rl.upload_helper import destination_of


class ModelSettings(Section):
    base: Name = "package:gemma3-270m"
    revision: Name | None = None
    tokenizer: Name | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0


class QuantizationSettings(Section):
    use_8bit: bool = False
    use_4bit: bool = False

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.use_8bit and self.use_4bit:
            raise ValueError("'use_8bit' and 'use_4bit' are both true; the base is held in one width: keep one")
        return self


class LoraSettings(Section):
    r: Rank = 16
    alpha: Alpha = 32
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[Name], Field(min_length=1)] = "all-linear"
    layers: Literal["all", "top-half"] = "all"
    use_rslora: bool = False
    rank_pattern: dict[Name, Rank] = {}
    alpha_pattern: dict[Name, Alpha] = {}


class TrainingSettings(Section):
    preset: Literal["auto", "fast", "small"] = "auto"
    num_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    per_device_train_batch_size: Annotated[int, Field(ge=1, le=4096)] = 14
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 1
    max_steps: Count | None = None
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    loraplus_lr_ratio: Annotated[float, Field(ge=1.0, le=1000.0)] = 1.0
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: Share = 0.1
    warmup_steps: CountOrZero = 20
    weight_decay: Share = 0.0
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    max_grad_norm: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    max_seq_length: Annotated[int, Field(ge=8, le=131_072)] = 512
    token_budget: Annotated[int, Field(ge=8, le=1_048_576)] = 512
    prefix_gradient: bool = True
    embedding_noise: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    save_steps: Count = 100
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0

    @model_validator(mode="after")
    def _longest_fits_the_budget(self) -> Self:
        if self.max_seq_length > self.token_budget:
            raise ValueError(
                f"'max_seq_length' is {self.max_seq_length}, more than 'token_budget' ({self.token_budget}): "
                "a sample must fit one micro-step; raise the budget or lower the length"
            )
        return self


class LossSettings(Section):
    vocabulary: Literal["all", "sampled"] = "all"
    sampled_tokens: Annotated[int, Field(ge=64, le=1_048_576)] = 8192


def loss_name(vocabulary: str) -> str:
    """What a training loss over this `loss.vocabulary` is called: a sampled one shall not be taken for the full one."""
    return "sampled loss" if vocabulary == "sampled" else "loss"


class DataSettings(Section):
    source: Name = "multilingual_corpus"
    fallback_source: Name | None = None
    max_train_samples: Count = 2000
    languages: list[Name] = []
    shuffle_buffer: Annotated[int, Field(ge=0, le=1_000_000)] = 2000
    max_skipped_fraction: Share = 0.1
    max_cache_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 100


class GateSettings(Section):
    enabled: bool = True
    holdout_fraction: Annotated[float, Field(gt=0.0, le=0.5)] = 0.02
    max_holdout_samples: Annotated[int, Field(ge=1, le=100_000)] = 200
    min_holdout_samples: Annotated[int, Field(ge=1, le=100_000)] = 20
    min_loss_gain: Annotated[float, Field(ge=-10.0, le=10.0)] = 0.0
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    generate_samples: Annotated[int, Field(ge=0, le=10_000)] = 50
    max_chrf_loss: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0

    @model_validator(mode="after")
    def _room_for_the_least(self) -> Self:
        if self.min_holdout_samples > self.max_holdout_samples:
            raise ValueError(
                f"'min_holdout_samples' is {self.min_holdout_samples}, more than 'max_holdout_samples' "
                f"({self.max_holdout_samples}); lower the one or raise the other"
            )
        return self


class StoreSettings(Section):
    """A place from which other machines pull adapters; `${VAR}` in a text is its value when it is opened."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    kind: Literal["folder", "s3"]
    path: Name | None = None
    bucket: Name | None = None
    prefix: Annotated[str, Field(max_length=500)] = ""
    endpoint_url: Name | None = None
    region: Name | None = None
    access_key_id: Name | None = None
    secret_access_key: Name | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = "path" if self.kind == "folder" else "bucket"
        allowed = {"name", "kind", "path"} if self.kind == "folder" else set(type(self).model_fields) - {"path"}
        if getattr(self, needed) is None:
            raise ValueError(f"store '{self.name}' is of kind {self.kind!r} and has no '{needed}'; add it")
        if other := sorted(self.model_fields_set - allowed):
            raise ValueError(
                f"store '{self.name}' is of kind {self.kind!r} and has '{other[0]}', which is of the other kind's; "
                "take it out"
            )
        return self

    @model_validator(mode="after")
    def _place_is_plain(self) -> Self:
        path = self.path
        if (
            path is not None
            and not any(variables(path))
            and not expanded(path, where=f"store '{self.name}'", error=ValueError).is_absolute()
        ):
            raise ValueError(f"store '{self.name}' has the path {path!r}; give an absolute one")
        if self.prefix and not all(part not in {"", ".", ".."} for part in self.prefix.strip("/").split("/")):
            raise ValueError(f"store '{self.name}' has the prefix {self.prefix!r}; write it as team/adapters")
        return self

    @model_validator(mode="after")
    def _secrets_are_variables(self) -> Self:
        keys = {"access_key_id": self.access_key_id, "secret_access_key": self.secret_access_key}
        given = {key: value for key, value in keys.items() if value is not None}
        if len(given) == 1:
            raise ValueError(f"store '{self.name}' has '{next(iter(given))}' alone; give both keys, or neither")
        if written := [key for key, value in given.items() if not any(variables(value))]:
            raise ValueError(
                f"'{written[0]}' of store '{self.name}' holds a secret; put it into an environment variable and "
                "write ${VARIABLE}, or leave both keys out: boto3 then looks where it always does"
            )
        return self


class PublishingSettings(Section):
    stores: Annotated[list[StoreSettings], Field(max_length=32)] = []
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 60
    max_pull_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 2048

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [store.name for store in self.stores]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two stores are called '{twice[0]}'; rename one")
        return self


KernelName = Literal["as_loaded", "float16", "int8", "modules", "graphs"]
KernelSetting = Literal["auto"] | KernelName


class ServingSettings(Section):
    host: Name = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8100
    default_adapter: AdapterName = "multilingual"
    max_new_tokens_limit: Tokens = 512
    max_prompt_tokens: Tokens = 1024
    default_max_new_tokens: Tokens = 100
    queue_size: Annotated[int, Field(ge=1, le=100_000)] = 32
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10.0)] = 1.2
    foreign_script_penalty: Annotated[float, Field(ge=0.0, le=100.0)] = 5.0
    max_active_requests: Annotated[int, Field(ge=1, le=64)] = 8
    max_adapters: Annotated[int, Field(ge=1, le=1024)] = 8
    max_adapter_bytes: Annotated[int, Field(ge=1, le=2**40)] = 2**30
    pinned_adapters: list[AdapterName] = []
    train_share: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    kernel: KernelSetting = "auto"
    prefix_cache_bytes: Annotated[int, Field(ge=0, le=2**40)] = 2**28
    job_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 16
    drain_seconds: Annotated[float, Field(ge=0.0, le=3600.0)] = 5.0

    @model_validator(mode="after")
    def _default_within_the_limit(self) -> Self:
        if self.default_max_new_tokens > self.max_new_tokens_limit:
            raise ValueError(
                f"'default_max_new_tokens' is {self.default_max_new_tokens}, more than "
                f"'max_new_tokens_limit' ({self.max_new_tokens_limit}); lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _one_place_without_a_pin(self) -> Self:
        names = self.pinned_adapters
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"'pinned_adapters' names '{twice[0]}' twice; take one out")
        if len(names) >= self.max_adapters and names:
            raise ValueError(
                f"'pinned_adapters' names {len(names)}; with 'max_adapters' {self.max_adapters} at most "
                f"{self.max_adapters - 1} may be pinned, or no other adapter could ever answer: "
                "take one out, or raise 'max_adapters'"
            )
        return self


class RlSettings(Section):
    log_generations: bool = False
    env_name: Name = "adapter-service"
    queue_size: Annotated[int, Field(ge=100, le=1_000_000)] = 1000
    shard_max_mb: Annotated[int, Field(ge=1, le=65_536)] = 32
    shard_max_seconds: Annotated[float, Field(ge=1.0, le=31_536_000.0)] = 3600.0
    upload_path: Name | None = None
    s3_endpoint_url: Name | None = None
    s3_region: Name | None = None
    keep_uploaded_mb: Annotated[int, Field(ge=0, le=1_048_576)] = 256
    max_local_mb: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    reward_weights: dict[Literal["length", "quality", "diversity", "script", "language"], Weight] = {}

    @field_validator("upload_path")
    @classmethod
    def _leads_somewhere(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if "?" in path or path.endswith(".jsonl"):
            raise ValueError("it names one file, and there will be many; name a folder, such as s3://bucket/episodes/")
        try:
            destination_of(path, environ={})
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return path

    @model_validator(mode="after")
    def _what_is_kept_leaves_room(self) -> Self:
        if self.keep_uploaded_mb >= self.max_local_mb:
            raise ValueError(
                f"'keep_uploaded_mb' is {self.keep_uploaded_mb}, which leaves no room within 'max_local_mb' "
                f"({self.max_local_mb}); lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _something_weighs(self) -> Self:
        if faults := self.rewards().faults():
            raise ValueError("; ".join(faults))
        return self

    def rewards(self) -> RewardSettings:
        weights: dict[str, Any] = {f"{name}_weight": weight for name, weight in self.reward_weights.items()}
        return RewardSettings(**weights)


class StorageSettings(Section):
    """After loading, `state_dir` is absolute; a relative one counts from the configuration's folder."""

    state_dir: Path = Path(".state")
    min_free_mb: Annotated[int, Field(ge=0, le=1_048_576)] = 256


class SecuritySettings(Section):
    loopback_only: bool = True
    max_body_bytes: Annotated[int, Field(ge=1024, le=1_073_741_824)] = 1_048_576
    max_upload_bytes: Annotated[int, Field(ge=1024, le=1_099_511_627_776)] = 104_857_600
    requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 600
    raw_sources: list[Name] = []


class Settings(Section):
    """Everything the service was told. Pass its sections on, not the whole."""

    model: ModelSettings = ModelSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    loss: LossSettings = LossSettings()
    data: DataSettings = DataSettings()
    gate: GateSettings = GateSettings()
    publishing: PublishingSettings = PublishingSettings()
    commands: CommandSettings = CommandSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    mqtt: MqttSettings = MqttSettings()
    serving: ServingSettings = ServingSettings()
    backend: BackendSettings = BackendSettings()
    rl: RlSettings = RlSettings()
    storage: StorageSettings = StorageSettings()
    security: SecuritySettings = SecuritySettings()
    sources: dict[str, SourceEntry] = {}

    config_path: Path | None = Field(default=None, exclude=True)
    sources_path: Path | None = Field(default=None, exclude=True)
    notes: tuple[str, ...] = Field(default=(), exclude=True)
    """What older keys became or why they have no effect: to be logged at start and shown by `check`."""

    def masked(self) -> dict[str, Any]:
        """As JSON, to be written beside an artifact: secrets masked."""
        return {key: masked(value) for key, value in self.model_dump(mode="json").items()}


SECTIONS: dict[str, type[Section]] = {
    name: type(field.default) for name, field in Settings.model_fields.items() if isinstance(field.default, Section)
}
