"""Stores as people configure them: both kinds, variables for secrets, and every fault with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_service.errors import InvalidParameterError, SettingsError
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.opening import open_store, store_named
from adapter_service.publishing.s3_store import S3Store
from adapter_service.settings import Settings, StoreSettings, load_settings


def load(tmp_path: Path, *stores: str, **environ: str) -> Settings:
    config = tmp_path / "adapter_config.yaml"
    config.write_text("publishing:\n  stores:\n" + "".join(f"    - {store}\n" for store in stores))
    sources = tmp_path / "mcp_connectors.yml"
    sources.write_text("sources: {}\n")
    return load_settings(config, sources, environ)


def test_both_kinds_are_opened_as_they_are_configured(tmp_path: Path) -> None:
    stores = load(
        tmp_path,
        "{name: nas, kind: folder, path: /mnt/nas/adapters}",
        "{name: cloud, kind: s3, bucket: b, prefix: team/a/, endpoint_url: 'http://127.0.0.1:9000', region: eu}",
    ).publishing.stores
    nas, cloud = (open_store(store, tmp_path) for store in stores)
    assert (type(nas), nas.name, nas.shown) == (FolderStore, "nas", "/mnt/nas/adapters")
    assert (type(cloud), cloud.name, cloud.shown) == (S3Store, "cloud", "s3://b/team/a/")


def test_variables_take_their_values_when_a_store_is_opened(tmp_path: Path) -> None:
    (store,) = load(tmp_path, "{name: nas, kind: folder, path: '${SHARE}/adapters'}").publishing.stores
    assert open_store(store, tmp_path, {"SHARE": "/mnt/x"}).shown == "/mnt/x/adapters"
    with pytest.raises(SettingsError, match=r"store 'nas' needs the environment variable SHARE.*export SHARE="):
        open_store(store, tmp_path, {})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{name: nas, kind: folder, path: '${SHARE:-}'}", "has no 'path'; add it"),
        ("{name: nas, kind: folder, path: '${RELATIVE}'}", "has the path 'adapters'; give an absolute one"),
        ("{name: c, kind: s3, bucket: '${BUCKET:-}'}", "has no 'bucket'; add it"),
        ("{name: c, kind: s3, bucket: b, prefix: '${UP}'}", "has the prefix '../up'"),
    ],
)
def test_a_variable_whose_value_makes_no_store_is_refused(tmp_path: Path, line: str, told: str) -> None:
    (store,) = load(tmp_path, line).publishing.stores
    with pytest.raises(SettingsError, match=f"store '{store.name}', with the values of its variables.*{told}"):
        open_store(store, tmp_path, {"RELATIVE": "adapters", "UP": "../up"})


def test_what_a_variable_leaves_empty_and_need_not_be_there_is_not_there(tmp_path: Path) -> None:
    line = (
        "{name: c, kind: s3, bucket: b, endpoint_url: '${S3_URL:-}', region: '${S3_REGION:-}', "
        "access_key_id: '${S3_KEY:-}', secret_access_key: '${S3_SECRET:-}'}"
    )
    (store,) = load(tmp_path, line).publishing.stores
    assert open_store(store, tmp_path, {}).shown == "s3://b/"


def test_a_variable_that_only_a_store_names_is_no_misspelt_one(tmp_path: Path) -> None:
    line = "{name: c, kind: s3, bucket: b, access_key_id: '${ADAPTER_S3_KEY}', secret_access_key: '${ADAPTER_S3}'}"
    settings = load(tmp_path, line, ADAPTER_S3_KEY="a", ADAPTER_S3="b")
    assert settings.publishing.stores[0].name == "c"
    assert (
        settings.masked()["publishing"]["stores"][0] | {"access_key_id": "***", "secret_access_key": "***"}
        == (settings.masked()["publishing"]["stores"][0])
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{name: nas, kind: folder}", "of kind 'folder' and has no 'path'; add it"),
        ("{name: c, kind: s3, path: /x}", "of kind 's3' and has no 'bucket'; add it"),
        ("{name: nas, kind: folder, path: /x, bucket: b}", "has 'bucket', which is of the other kind's"),
        ("{name: nas, kind: folder, path: x/y}", "the path 'x/y'; give an absolute one"),
        ("{name: c, kind: s3, bucket: b, prefix: ../up}", "the prefix '../up'"),
        ("{name: c, kind: s3, bucket: b, access_key_id: '${K}'}", "'access_key_id' alone; give both keys"),
        ("{name: c, kind: s3, bucket: b, access_key_id: abc, secret_access_key: def}", "holds a secret"),
        ("{name: Nas, kind: folder, path: /x}", "publishing.stores.0.name"),
        ("{name: nas, kind: folder, pth: /x}", r"unknown key 'publishing.stores.0.pth'; did you mean 'path'\?"),
        ("{name: nas, kind: ftp}", "should be 'folder' or 's3'"),
    ],
)
def test_a_store_that_cannot_be_is_refused_with_what_to_do(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        load(tmp_path, line)
    assert "adapter_config.yaml" in str(error.value)
    assert "def" not in str(error.value)


def test_two_stores_of_one_name_are_refused(tmp_path: Path) -> None:
    line = "{name: nas, kind: folder, path: /x}"
    with pytest.raises(SettingsError, match="two stores are called 'nas'; rename one"):
        load(tmp_path, line, line)


def test_an_unknown_store_gets_a_guess_and_the_configured_ones() -> None:
    stores = [StoreSettings(name="nas", kind="folder", path="/x"), StoreSettings(name="usb", kind="folder", path="/y")]
    assert store_named("usb", stores) is stores[1]
    with pytest.raises(InvalidParameterError, match=r"'nass'; did you mean 'nas'\? configured: nas, usb"):
        store_named("nass", stores)
    with pytest.raises(InvalidParameterError, match=r"none is configured: see publishing\.stores"):
        store_named("nas", [])


def test_a_writer_is_the_same_after_a_restart_and_another_on_another_machine(tmp_path: Path) -> None:
    store = StoreSettings(name="nas", kind="folder", path="/x")
    writers = [open_store(store, tmp_path / state)._writer for state in ("a", "a", "b")]  # type: ignore[attr-defined]
    assert writers[0] == writers[1] != writers[2]
