"""The sections for home hubs: what a node may post, where its adapters go, and who tells it."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from adapter_service.home_folders import expanded
from adapter_service.settings.section import Count, Name, Rank, Section, Share
from adapter_service.settings.sources import variables

Seconds = Annotated[float, Field(gt=0.0, le=31_536_000.0)]
MOST_URL_SECONDS = 604_800
"""Seven days: what SigV4 can sign at most."""


@cache
def time_zones() -> frozenset[str]:
    """Names of the IANA database; to gather them reads hundreds of files."""
    return frozenset(available_timezones())


class CommandSettings(Section):
    """What a node may post, and how an adapter for its commands is trained and judged."""

    base_models: dict[Name, Name] = {}
    time_zone: Name = "UTC"
    min_examples: Annotated[int, Field(ge=1, le=1000)] = 3
    max_examples: Annotated[int, Field(ge=1, le=1000)] = 50
    max_commands: Annotated[int, Field(ge=1, le=300)] = 200
    max_text_characters: Annotated[int, Field(ge=1, le=100_000)] = 500
    max_schema_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 524_288
    max_dataset_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 16_777_216
    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    max_jobs_per_hour: Annotated[int, Field(ge=1, le=100_000)] = 12
    num_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    going_on_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-4
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 8
    variations: Annotated[int, Field(ge=0, le=100)] = 8
    embedding_noise: Annotated[float, Field(ge=0.0, le=10.0)] = 0.3
    rank: Rank = 16
    max_seq_len: Annotated[int, Field(ge=64, le=131_072)] = 768
    token_budget: Annotated[int, Field(ge=64, le=1_048_576)] = 2048
    holdout_fraction: Annotated[float, Field(gt=0.0, le=0.5)] = 0.2
    min_tool_accuracy: Share = 0.8
    min_parameter_accuracy: Share = 0.8
    callback_urls: list[Name] = []

    @field_validator("callback_urls")
    @classmethod
    def _are_beginnings_of_addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            parts = urlsplit(url)
            plain = not (parts.username or parts.query or parts.fragment)
            if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
                raise ValueError(f"{url!r} begins no address; write it as https://hub.example.org/callbacks/")
        return urls

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        if zone not in time_zones():
            raise ValueError(f"there is no time zone {zone!r}; write one of the IANA database, such as Europe/Berlin")
        return zone

    @model_validator(mode="after")
    def _some_number_of_examples_will_do(self) -> Self:
        if self.min_examples > self.max_examples:
            raise ValueError(
                f"'min_examples' is {self.min_examples}, more than 'max_examples' ({self.max_examples}); "
                "lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _longest_fits_the_budget(self) -> Self:
        if self.max_seq_len > self.token_budget:
            raise ValueError(
                f"'max_seq_len' is {self.max_seq_len}, more than 'token_budget' ({self.token_budget}): a sample must "
                "fit one micro-step; raise the budget or lower the length"
            )
        return self


class ArtifactSettings(Section):
    """Where a node's `adapter.zip` lies, for how long, and who may fetch it; `${VAR}` in a text is its value."""

    kind: Literal["folder", "s3"] = "folder"
    path: Name | None = None
    bucket: Name | None = None
    prefix: Annotated[str, Field(max_length=500)] = "adapters"
    endpoint_url: Name | None = None
    public_url: Name | None = None
    region: Name | None = None
    access_key_id: Name | None = None
    secret_access_key: Name | None = None
    environment: Literal["production", "dev"] = "production"
    url_seconds: Annotated[int, Field(ge=60, le=MOST_URL_SECONDS)] = 172_800
    retry_seconds: Seconds = 300.0
    give_up_seconds: Seconds = 3600.0
    max_artifact_mb: Count = 512

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "s3" and self.bucket is None:
            raise ValueError("'kind' is s3 and there is no 'bucket'; add it")
        others = {"folder": {"bucket", "endpoint_url", "region", "access_key_id", "secret_access_key"}, "s3": {"path"}}
        if wrong := sorted(name for name in others[self.kind] if getattr(self, name) is not None):
            raise ValueError(
                f"'kind' is {self.kind} and there is '{wrong[0]}', which is of the other kind's; take it out"
            )
        return self

    @model_validator(mode="after")
    def _secrets_are_variables(self) -> Self:
        keys = {"access_key_id": self.access_key_id, "secret_access_key": self.secret_access_key}
        given = {key: value for key, value in keys.items() if value is not None}
        if len(given) == 1:
            raise ValueError(f"there is '{next(iter(given))}' alone; give both keys, or neither")
        if written := [key for key, value in given.items() if not any(variables(value))]:
            raise ValueError(
                f"'{written[0]}' holds a secret; put it into an environment variable and write ${{VARIABLE}}, or leave "
                "both keys out: boto3 then looks where it always does"
            )
        return self

    @model_validator(mode="after")
    def _places_are_plain(self) -> Self:
        path = self.path
        if (
            path is not None
            and not any(variables(path))
            and not expanded(path, where="'artifacts.path'", error=ValueError).is_absolute()
        ):
            raise ValueError(f"'path' is {path!r}; give an absolute one")
        if self.prefix and not all(part not in {"", ".", ".."} for part in self.prefix.strip("/").split("/")):
            raise ValueError(f"'prefix' is {self.prefix!r}; write it as home/adapters")
        if self.public_url is not None and not any(variables(self.public_url)):
            parts = urlsplit(self.public_url)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
                raise ValueError(f"'public_url' is {self.public_url!r}; write it as https://hub.example.org")
        return self


class MqttSettings(Section):
    """The broker that nodes listen to; without `broker_url` nobody is told."""

    broker_url: Name | None = None
    username: Name | None = None
    password: Name | None = None
    ca_file: Name | None = None
    topic: Annotated[str, Field(min_length=1, max_length=1000)] = "jarvis/nodes/{node_id}/adapters"
    retain: bool = False
    acknowledge_seconds: Seconds = 10.0
    first_wait_seconds: Seconds = 1.0
    longest_wait_seconds: Seconds = 300.0

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, url: str | None) -> str | None:
        if url is None or any(variables(url)):
            return url
        parts = urlsplit(url)
        if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.username or parts.path.strip("/"):
            raise ValueError(f"it is {url!r}; write mqtt://host:1883 or mqtts://host:8883, user and password apart")
        return url

    @field_validator("topic")
    @classmethod
    def _names_the_node(cls, topic: str) -> str:
        if "{node_id}" not in topic or any(char in topic for char in "+#\0"):
            raise ValueError(f"it is {topic!r}; write it with {{node_id}} and without wildcards")
        return topic

    @model_validator(mode="after")
    def _password_is_a_variable(self) -> Self:
        if self.password is not None and not any(variables(self.password)):
            raise ValueError("'password' holds a secret; put it into an environment variable and write ${VARIABLE}")
        if self.password is not None and self.username is None:
            raise ValueError("there is a 'password' and no 'username'; give both, or neither")
        return self

    @model_validator(mode="after")
    def _waits_grow(self) -> Self:
        if self.first_wait_seconds > self.longest_wait_seconds:
            raise ValueError(
                f"'first_wait_seconds' is {self.first_wait_seconds}, more than 'longest_wait_seconds' "
                f"({self.longest_wait_seconds}); lower the one or raise the other"
            )
        return self
