"""Versions that were loaded by name: they stay resident until they are unloaded, or the service ends."""

from __future__ import annotations

import threading

from adapter_service.adapters import Version, VersionStore
from adapter_service.engine.engine import Engine
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import InvalidParameterError, UnknownAdapterError


class LoadedAdapters:
    """By the names that they were loaded under: a version's own, or its adapter's while it is the one that is live.

    A version that has both names is pinned once for each.
    """

    def __init__(self, versions: VersionStore, engine: Engine) -> None:
        self._versions = versions
        self._engine = engine
        self._lock = threading.Lock()  # held around the names alone: to pin one is to wait for its disk
        self._loaded: dict[str, Version] = {}
        self._loading: dict[str, Version] = {}

    def load(self, name: str, version: Version) -> None:
        """Pin `version`, which waits until it is resident.

        Raises:
            InvalidParameterError: `name` is loaded already, or requests for it get another version.
        """
        with self._lock:
            self._refuse_taken(name, version)
            self._loading[name] = version
        try:
            self._check_name(name, version)
            self._engine.pin(AdapterFiles.of(version))
        except BaseException:
            with self._lock:
                del self._loading[name]
            raise
        with self._lock:
            self._loaded[name] = self._loading.pop(name)

    def unload(self, name: str) -> None:
        """Unpin what was loaded as `name`; requests for it are still answered, by loading it again.

        Raises:
            UnknownAdapterError: nothing was.
        """
        with self._lock:
            if name not in self._loaded:
                loading = ": it is still being loaded; unload it when it is" if name in self._loading else "."
                raise UnknownAdapterError(f"The lora adapter '{name}' cannot be found{loading}")
            version = self._loaded.pop(name)
        self._engine.unpin(version.key)

    def _refuse_taken(self, name: str, version: Version) -> None:
        taken = self._loaded.get(name) or self._loading.get(name)
        if taken is None:
            return
        begun = "has already been loaded" if name in self._loaded else "is already being loaded"
        other = "."
        if taken.key != version.key:
            other = (
                f", as {taken.reference}; for {version.reference}, unload it first "
                "(POST /v1/unload_lora_adapter), then load it again"
            )
        raise InvalidParameterError(f"The lora adapter '{name}' {begun}{other}", parameter="lora_name")

    def _check_name(self, name: str, version: Version) -> None:
        live = self._versions.live(version.adapter)
        answers = version.reference if live is None else live.reference
        if name == version.reference or (name == version.adapter and answers == version.reference):
            return
        asked = f" ({name!r} is answered by {answers})" if name == version.adapter else ""
        raise InvalidParameterError(
            f"'lora_name' is {name!r}, but requests name this version {version.reference!r}{asked}; "
            "load it under that name",
            parameter="lora_name",
        )
