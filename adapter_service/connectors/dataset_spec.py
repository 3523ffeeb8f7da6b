"""What is configured of a dataset: where it lies, which part of it is read, and how patiently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from adapter_service.connectors.files import FileSpec
from adapter_service.connectors.spec import SourceSpec

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class HfSpec(SourceSpec):
    """`dataset` is an id on the Hub, `path` a folder; `config` and `split` are those of the dataset's card."""

    dataset: str = ""
    path: str = ""
    config: str = ""
    split: str = "train"
    revision: str = Field(default="", description="branch, tag or commit; a stream keeps to the commit it began with")
    data_dir: str = Field(default="", description="only the files below this folder of the dataset")
    token: str = Field(default="", description="${HF_TOKEN}, for private and gated datasets")
    max_line_bytes: int = Field(default=1_000_000, ge=100, le=16_000_000)
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    retry_attempts: int = Field(default=3, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=30)
    allow_private: bool = Field(default=True, description="false refuses a Hub (HF_ENDPOINT) at a private address")

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if bool(self.dataset) == bool(self.path):
            raise ValueError("give either `dataset` (owner/name on the Hub) or `path` (a folder on this machine)")
        if self.path and (self.revision or self.token):
            raise ValueError("`revision` and `token` are for a dataset on the Hub; a folder has neither")
        return self

    @field_validator("dataset")
    @classmethod
    def _is_a_hub_id(cls, dataset: str) -> str:
        if dataset and not _HUB_ID.fullmatch(dataset):
            raise ValueError(f"{dataset[:100]!r} is no id of the Hub (owner/name); a folder is given as `path`")
        return dataset

    @field_validator("split")
    @classmethod
    def _is_a_whole_split(cls, split: str) -> str:
        if not re.fullmatch(r"[\w.-]+", split):
            raise ValueError(f"{split[:100]!r} is no name of a split; for a part of one say `max_samples`")
        return split

    @property
    def shown(self) -> str:
        return self.dataset or Path(self.path).name

    def file_spec(self, **of_the_card: Any) -> FileSpec:
        """How its files are read: what is configured, and what its card says."""
        configured = {name: getattr(self, name) for name in ("format", "fields", "defaults", "max_line_bytes")}
        return FileSpec(**configured, **of_the_card)
