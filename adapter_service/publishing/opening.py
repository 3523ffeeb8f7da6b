"""From a configured store to one that can be used: variables replaced, the kind's class made."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapter_service.errors import InvalidParameterError
from adapter_service.home_folders import expanded
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.store import Store
from adapter_service.settings import StoreSettings, validate_section
from adapter_service.settings.sources import with_values
from adapter_service.suggestions import did_you_mean

_SECRETS = frozenset({"access_key_id", "secret_access_key"})


def open_store(settings: StoreSettings, state_dir: Path, environ: Mapping[str, str] | None = None) -> Store:
    """The store that `settings` describe; nothing is connected to yet.

    Raises:
        SettingsError: a variable without a default is not set, or one's value makes no store.
        StoreError: what is configured is no address.
    """
    texts = _resolved(settings, os.environ if environ is None else environ)
    if settings.kind == "folder":
        return FolderStore(
            settings.name, expanded(texts["path"], where=f"store '{settings.name}'"), writer=_writer(state_dir)
        )
    from adapter_service.publishing.s3_store import S3Store

    return S3Store(
        settings.name,
        texts["bucket"],
        prefix=texts.get("prefix", ""),
        endpoint_url=texts.get("endpoint_url"),
        region=texts.get("region"),
        access_key_id=texts.get("access_key_id"),
        secret_access_key=texts.get("secret_access_key"),
    )


def store_named(name: str, stores: Sequence[StoreSettings]) -> StoreSettings:
    """The configured store of that name.

    Raises:
        InvalidParameterError: there is none; says which there are.
    """
    names = [store.name for store in stores]
    if name not in names:
        known = f"configured: {', '.join(names)}" if names else "none is configured: see publishing.stores"
        raise InvalidParameterError(f"unknown store {name!r}{did_you_mean(name, names)} {known}", parameter="store")
    return stores[names.index(name)]


def _resolved(settings: StoreSettings, environ: Mapping[str, str]) -> dict[str, str]:
    texts = settings.model_dump(exclude={"name", "kind"}, exclude_none=True)
    given = with_values(texts, environ, whose=f"store '{settings.name}'")
    address = {key: text for key, text in given.items() if key not in _SECRETS}
    where = f"store '{settings.name}', with the values of its variables"
    validate_section(StoreSettings, {"name": settings.name, "kind": settings.kind, **address}, where=where)
    return given


def _writer(state_dir: Path) -> str:
    """This machine's service, as other machines can tell it from theirs."""
    return hashlib.sha256(f"{socket.gethostname()}:{state_dir.resolve()}".encode()).hexdigest()[:12]
