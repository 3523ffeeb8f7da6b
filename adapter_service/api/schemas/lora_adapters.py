"""vLLM's bodies for loading and unloading an adapter while the server runs."""

from __future__ import annotations

from pydantic import Field

from adapter_service.api.schemas.fields import Body


class LoadAdapterBody(Body):
    lora_name: str = Field(
        min_length=1,
        max_length=100,
        description="`adapter@version`, or the adapter's name for the version that is live.",
        examples=["multilingual@3"],
    )
    lora_path: str = Field(
        min_length=1,
        max_length=100,
        description="A known `adapter@version`, or the adapter's name; no path is taken.",
        examples=["multilingual@3"],
    )
    load_inplace: bool = Field(default=False, description="False alone: a version never changes.")


class UnloadAdapterBody(Body):
    lora_name: str = Field(min_length=1, max_length=100, examples=["multilingual@3"])
    lora_int_id: int | None = Field(default=None, description="Accepted, without effect.")
