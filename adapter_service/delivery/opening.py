"""From the section `artifacts` to a store that can be used: variables replaced, the kind's class made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.folder_artifacts import FolderArtifacts
from adapter_service.delivery.signed_urls import UrlSigner, signing_key
from adapter_service.durable import make_folder
from adapter_service.home_folders import expanded
from adapter_service.settings import ArtifactSettings, validate_section
from adapter_service.settings.sources import with_values

FOLDER = "published"
"""In the state folder, where no other place is configured."""
_SECRETS = frozenset({"access_key_id", "secret_access_key"})


def open_artifacts(
    settings: ArtifactSettings,
    state_dir: Path,
    environ: Mapping[str, str] | None = None,
    *,
    service_url: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ArtifactStore:
    """The store that `settings` describe; nothing is connected to yet.

    Args:
        service_url: what nodes reach this service by, where `settings` do not say.

    Raises:
        SettingsError: a variable without a default is not set, or one's value makes no store.
        StorageError: the key that URLs are signed with is damaged.
    """
    texts = _resolved(settings, os.environ if environ is None else environ)
    prefix = texts.get("prefix", "")
    if settings.kind == "folder":
        return FolderArtifacts(
            _root(texts.get("path"), state_dir),
            prefix=prefix,
            public_url=texts.get("public_url", service_url),
            signer=UrlSigner(signing_key(state_dir), now),
            now=now,
        )
    from adapter_service.delivery.s3_artifacts import S3Artifacts
    from adapter_service.publishing.s3_endpoint import S3Endpoint

    endpoint = S3Endpoint(
        texts.get("endpoint_url"), texts.get("region"), texts.get("access_key_id"), texts.get("secret_access_key")
    )
    return S3Artifacts(texts["bucket"], endpoint, prefix=prefix, public_url=texts.get("public_url"), now=now)


def _root(path: str | None, state_dir: Path) -> Path:
    if path is not None:
        return expanded(path, where="'artifacts.path'")
    make_folder(state_dir / FOLDER)
    return state_dir / FOLDER


def _resolved(settings: ArtifactSettings, environ: Mapping[str, str]) -> dict[str, str]:
    described = settings.model_dump(exclude_none=True)
    texts = {key: value for key, value in described.items() if isinstance(value, str)}
    given = with_values(texts, environ, whose="artifacts")
    address = {key: text for key, text in given.items() if key not in _SECRETS}
    validate_section(ArtifactSettings, address, where="artifacts, with the values of its variables")
    return given
