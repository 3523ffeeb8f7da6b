"""The kind `http`: one file, or an API that answers with records, streamed over HTTP(S)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.files import FileFormat, FileSpec, read_file
from adapter_service.connectors.http_file import HttpFile, HttpOptions
from adapter_service.connectors.outbound import Outbound
from adapter_service.connectors.registry import register


class HttpSpec(FileSpec):
    """`base_url` and `endpoint` are the older way to write `url`."""

    url: str = ""
    base_url: str = ""
    endpoint: str = ""
    headers: dict[str, str] = Field(default={}, description="values may be ${VAR}")
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    retry_attempts: int = Field(default=3, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=30)
    allow_private: bool = False

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if bool(self.url) == bool(self.base_url):
            raise ValueError("give the address as `url` (or, the older way, as `base_url` and `endpoint`)")
        parts = urlsplit(self.address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the address is no http:// or https:// URL with a host")
        return self

    @property
    def address(self) -> str:
        if self.url:
            return self.url
        return f"{self.base_url.rstrip('/')}/{self.endpoint.lstrip('/')}"


@register("http", spec=HttpSpec)
class HttpReader:
    """Reads a file over HTTP from any record on, holding no more of it than one range."""

    def __init__(self, spec: HttpSpec, name: str) -> None:
        self._spec = spec
        self._name = name
        self._path = urlsplit(spec.address).path
        self._connect = partial(
            Outbound,
            headers=spec.headers,
            timeout_seconds=spec.timeout_seconds,
            allow_private=spec.allow_private,
        )

    def check(self) -> str:
        with self._file(None) as file:
            next(file.blocks(0), None)
            size = f"{file.stamp['size']} bytes" if "size" in file.stamp else "size unknown"
            return f"{file.label}, {size}, {self._format(file)}"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        with self._file(after) as file:
            yield from read_file(file, self._format(file), self._spec, source=self._name, after=after)

    def _file(self, after: Cursor | None) -> HttpFile:
        spec = self._spec
        options = HttpOptions(
            attempts=spec.retry_attempts + 1,
            backoff_seconds=spec.backoff_seconds,
            timeout_seconds=spec.timeout_seconds,
            compression=spec.compression_of(self._path),
        )
        return HttpFile(spec.address, self._connect, options, after["stamp"] if after else None)

    def _format(self, file: HttpFile) -> FileFormat:
        known = self._spec.format_of(self._path) or file.announced_format()
        return known or self._spec.required_format_of(self._path)
