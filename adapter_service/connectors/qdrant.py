"""The kind `qdrant`: the payloads of a collection, point by point, from a server or an embedded folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.outbound import shown
from adapter_service.connectors.patience import MAX_BACKOFF_SECONDS, pause_seconds
from adapter_service.connectors.qdrant_clients import embedded, require_package, served
from adapter_service.connectors.registry import register
from adapter_service.connectors.spec import SourceSpec


class QdrantSpec(SourceSpec):
    """`host` and `port` are the older way to write `url`; `payload_field` is short for `fields: {text: …}`."""

    collection: str = Field(min_length=1)
    url: str = ""
    host: str = ""
    port: int = Field(default=6333, ge=1, le=65_535)
    path: str = Field(default="", description="a folder that qdrant-client wrote (embedded mode)")
    api_key: str = Field(default="", description="as ${VAR}")
    payload_field: str = ""
    page_points: int = Field(default=64, ge=1, le=10_000)
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    retry_attempts: int = Field(default=3, ge=0, le=20)
    backoff_seconds: float = Field(default=0.5, ge=0, le=30)

    @model_validator(mode="before")
    @classmethod
    def _payload_field_is_the_text(cls, values: Any) -> Any:
        """Read the short form as what it stands for, where nothing speaks against it."""
        if not isinstance(values, dict) or not (name := values.get("payload_field")):
            return values
        fields = values.get("fields") or {}
        if values.get("format", "text") != "text" or not isinstance(fields, dict) or "text" in fields:
            raise ValueError("`payload_field` names the text of format 'text'; say the rest under `fields` alone")
        return {**values, "fields": {**fields, "text": name}}

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if [bool(self.url), bool(self.host), bool(self.path)].count(True) != 1:
            raise ValueError("give the server as `url` (or, the older way, `host` and `port`), or a folder as `path`")
        if "://" in self.host:
            raise ValueError("`host` is a name without http://; an address goes into `url`")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("`url` is no http:// or https:// address")
        return self

    @property
    def address(self) -> str:
        return self.url or f"http://{self.host}:{self.port}"


@register("qdrant", spec=QdrantSpec)
class QdrantReader:
    """Scrolls through a collection in the order of the points' ids, a page at a time.

    The cursor is the id of the last point, which is the offset that Qdrant scrolls from; points that
    are added behind it meanwhile are read, those before it are not. An embedded folder is held in
    memory whole, since that is how qdrant-client works.
    """

    def __init__(self, spec: QdrantSpec, name: str) -> None:
        require_package(name)
        self._spec = spec
        self._name = name
        self._where = f"the folder {Path(spec.path).name!r}" if spec.path else shown(spec.address)

    def check(self) -> str:
        collection = self._spec.collection
        with self._client() as client:
            points = self._tried(client, lambda: client.count(collection, exact=False).count)
        return f"collection {collection!r}, about {points} point(s)"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        reached = after["point"] if after else None
        with self._client() as client:
            offset = reached
            while True:
                points, offset = self._page(client, offset)
                for point in points:
                    # Qdrant's offset is the first point that it gives, and ours the last that was read.
                    if point.id != reached:
                        origin = f"{self._name}:{self._spec.collection}:{point.id}"
                        yield Record({"point": point.id}, origin, point.payload or {})
                if offset is None:
                    return

    def _page(self, client: Any, offset: Any) -> Any:
        return self._tried(
            client,
            lambda: client.scroll(
                self._spec.collection,
                limit=self._spec.page_points,
                offset=offset,
                with_payload=True,
                with_vectors=False,
            ),
        )

    def _tried(self, client: Any, ask: Callable[[], Any]) -> Any:
        """What `ask` gives, after further tries where they are worth it."""
        from adapter_service.connectors import qdrant_errors as faults

        spec = self._spec
        attempt = 0
        while True:
            attempt += 1
            try:
                return ask()
            except faults.FAILURES as error:
                if attempt > spec.retry_attempts or not faults.is_transient(error):
                    raise faults.explained(
                        error,
                        where=self._where,
                        collection=spec.collection,
                        attempts=attempt,
                        collections=lambda: (found.name for found in client.get_collections().collections),
                    ) from error
                asked = min(faults.asked_pause_seconds(error), MAX_BACKOFF_SECONDS)
                time.sleep(max(pause_seconds(spec.backoff_seconds, attempt), asked))

    def _client(self) -> AbstractContextManager[Any]:
        spec = self._spec
        if spec.path:
            return embedded(spec.path)
        return served(spec.address, api_key=spec.api_key, timeout_seconds=spec.timeout_seconds)
