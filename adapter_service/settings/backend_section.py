"""The section for who answers: this service's own engine, llama.cpp beside it, or vLLM servers elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from adapter_service.settings.masking import masked
from adapter_service.settings.section import Name, Section
from adapter_service.settings.sources import variables

BackendKind = Literal["engine", "llama.cpp", "vllm"]


def fault_of_server(url: str) -> str | None:
    """Why it is not the address of a server: a scheme, a host and perhaps a port."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        is_one = False
    if is_one and not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/")):
        return None
    return f"{masked(url)!r} is no server's address; write it as http://gpu-1:8000, without a path or a user"


class BackendSettings(Section):
    """Of the kinds other than `engine`, each has keys of its own; `${VAR}` in a text is its value."""

    kind: BackendKind = "engine"
    gguf: Name | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    servers: Annotated[list[Name], Field(max_length=64)] = []
    model: Name | None = None
    api_key: Name | None = None
    zero_adapter: bool = False
    adapter_dir: Name | None = None
    server_adapter_dir: Name | None = None

    @field_validator("servers")
    @classmethod
    def _are_addresses(cls, urls: list[str]) -> list[str]:
        if faults := [fault for url in urls if not any(variables(url)) and (fault := fault_of_server(url))]:
            raise ValueError(faults[0])
        if twice := sorted({url for url in urls if urls.count(url) > 1}):
            raise ValueError(f"{twice[0]!r} is there twice; take one out")
        return urls

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "vllm" and not self.servers:
            raise ValueError(
                "'kind' is vllm and there are no 'servers'; add their addresses, such as http://gpu-1:8000"
            )
        of_vllm = {"servers", "model", "api_key", "zero_adapter", "adapter_dir", "server_adapter_dir"}
        of_llama = {"gguf", "threads"}
        others = {"engine": of_vllm | of_llama, "llama.cpp": of_vllm, "vllm": of_llama}[self.kind]
        if wrong := sorted(name for name in others if getattr(self, name)):
            raise ValueError(f"'kind' is {self.kind} and there is '{wrong[0]}', which is of another kind; take it out")
        if self.server_adapter_dir is not None and self.adapter_dir is None:
            raise ValueError("there is 'server_adapter_dir' alone; say with 'adapter_dir' where that folder is here")
        return self

    @model_validator(mode="after")
    def _key_is_a_variable(self) -> Self:
        if self.api_key is not None and not any(variables(self.api_key)):
            raise ValueError("'api_key' is a secret; put it into an environment variable and write ${VARIABLE}")
        return self
