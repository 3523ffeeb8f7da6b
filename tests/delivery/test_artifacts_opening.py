"""Where artifacts go, as people configure it: both kinds, and variables for secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapter_service.delivery.folder_artifacts import FolderArtifacts
from adapter_service.delivery.opening import open_artifacts
from adapter_service.delivery.s3_artifacts import S3Artifacts
from adapter_service.errors import SettingsError
from adapter_service.settings import ArtifactSettings

URL = "http://127.0.0.1:8100"
KEY = "adapters/n/b/h/t/adapter.zip"
S3: dict[str, Any] = {
    "kind": "s3",
    "bucket": "b",
    "region": "eu",
    "access_key_id": "${KEY}",
    "secret_access_key": "${SECRET}",
}


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_without_a_word_artifacts_lie_in_the_state_folder_and_this_service_hands_them_out(tmp_path: Path) -> None:
    store = open_artifacts(ArtifactSettings(), tmp_path, {}, service_url=URL)
    assert isinstance(store, FolderArtifacts)
    assert (store.shown, store.prefix) == (str(tmp_path / "published"), "adapters")
    assert Path(store.shown).is_dir()
    url = store.url(KEY, node_id="n", expires_at=later())
    assert url.startswith(f"{URL}/api/v0/artifacts/")
    again = open_artifacts(ArtifactSettings(), tmp_path, {}, service_url=URL)
    assert isinstance(again, FolderArtifacts)
    assert again.grant(url.split("/")[-2]).node_id == "n"  # a restart ends no URL


def test_a_share_and_an_address_of_their_own(tmp_path: Path) -> None:
    settings = ArtifactSettings(path="${SHARE}/x", public_url="${HUB:-https://hub.example}", prefix="")
    store = open_artifacts(settings, tmp_path, {"SHARE": "/mnt/nas"}, service_url=URL)
    assert (store.shown, store.prefix) == ("/mnt/nas/x", "")
    assert store.url(KEY, node_id="n", expires_at=later()).startswith("https://hub.example/api/v0/artifacts/")


def test_a_bucket_is_asked_with_the_values_of_variables(tmp_path: Path) -> None:
    settings = ArtifactSettings(**S3, endpoint_url="http://127.0.0.1:9000", public_url="https://s3.example")
    store = open_artifacts(settings, tmp_path, {"KEY": "AKIA1", "SECRET": "geheim"}, service_url=URL)
    assert isinstance(store, S3Artifacts)
    assert store.shown == "s3://b/adapters"
    url = store.url(KEY, node_id="n", expires_at=later())
    assert url.startswith(f"https://s3.example/b/{KEY}?")
    assert "AKIA1" in url
    assert "geheim" not in url
    assert not (tmp_path / "url_signing.key").exists()


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"artifacts needs the environment variable KEY.*export KEY=… and start"):
        open_artifacts(ArtifactSettings(**S3), tmp_path, {"SECRET": "geheim"}, service_url=URL)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"path": "${P}"}, "'path' is 'relative'; give an absolute one"),
        ({"prefix": "a/${UP}"}, "'prefix' is 'a/..'"),
        ({"public_url": "${P}"}, "'public_url' is 'relative'"),
    ],
)
def test_a_variable_whose_value_makes_no_store_is_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=f"artifacts, with the values of its variables.*{told}"):
        open_artifacts(ArtifactSettings(**changed), tmp_path, {"P": "relative", "UP": ".."}, service_url=URL)
