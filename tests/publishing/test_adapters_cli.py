"""`adapter-service adapters …`: two machines and a share, with a service that runs meanwhile."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from adapter_service.adapters import Version
from adapter_service.adapters.lease import Lease
from adapter_service.api.services import Services, build_services
from adapter_service.cli.main import app
from adapter_service.publishing import pushing
from adapter_service.settings import load_settings
from tests.api.conftest import QuickPipeline, client_of
from tests.publishing.conftest import Machine
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel, BaseOutline


class Site(Machine):
    """One machine with its configuration, and the share `nas` that both machines see."""

    def __init__(self, folder: Path, base: BaseOutline) -> None:
        super().__init__(folder / "state", base, stores=("nas",))
        share = folder.parent / "share"
        share.mkdir(exist_ok=True)
        self.config = folder / "adapter_config.yaml"
        self.config.write_text(
            f"model: {{base: {base.name}, device: cpu, dtype: float32}}\n"
            "storage: {state_dir: state}\n"
            "serving: {default_adapter: hindi}\n"
            f"publishing: {{stores: [{{name: nas, kind: folder, path: {share}}}]}}\n"
        )
        self.sources = folder / "mcp_connectors.yml"
        self.sources.write_text("sources: {}\n")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["adapters", *arguments, "--config", str(self.config), "--sources", str(self.sources)],
            env={"COLUMNS": "160", "ADAPTER_TEST_BASES": None},
        )  # fmt: skip

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def refused(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 1, result.output
        return " ".join(result.output.split())


@pytest.fixture
def sites(tmp_path: Path, outline: BaseOutline) -> Iterator[tuple[Site, Site]]:
    made = [Site(tmp_path / name, outline) for name in ("here", "there")]
    yield made[0], made[1]
    for site in made:
        site.database.close()


@pytest.fixture
def here(sites: tuple[Site, Site]) -> Site:
    return sites[0]


@pytest.fixture
def there(sites: tuple[Site, Site]) -> Site:
    return sites[1]


def test_a_version_goes_from_one_machine_to_another_and_is_served_there(here: Site, there: Site) -> None:
    there.versions.go_live(there.train(1))
    assert "hindi@1 (000000000000) is in nas: sent README.md, adapter_config.json" in there.ok("push", "hindi")
    assert "nas: pushed" in there.ok("list")
    assert "all of it was there already" in there.ok("push", "hindi", "--store", "nas")
    assert "hindi@1" in here.ok("list", "--store", "nas")
    told = here.ok("pull", "hindi")
    assert "hindi@1 is hindi@1 of nas" in told
    assert "candidate: ask for 'hindi@1', or pull it with --live" in told
    assert here.versions.live("hindi") is None
    assert "live: ask for 'hindi'" in here.ok("pull", "hindi", "--live")
    assert here.versions.resolve("hindi").number == 1
    assert "hindi@1 is whole, and fits" in here.ok("verify", "hindi")


def test_without_anything_the_lists_say_so(here: Site) -> None:
    assert "no versions here yet; train one, or pull one" in here.ok("list")
    assert "has no versions" in here.ok("list", "--store", "nas")


def test_whatever_a_manifest_says_is_shown_as_text_and_not_obeyed(here: Site, there: Site, tmp_path: Path) -> None:
    version = there.versions.go_live(there.train(1))
    there.ok("push", "hindi")
    path = tmp_path / "share" / "hindi" / version.key / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "base_name": "[/x] [red]\x1b[2J :key:"}))
    assert "[/x] [red]\N{REPLACEMENT CHARACTER}[2J :key:" in here.ok("list", "--store", "nas")
    path.write_text(json.dumps({**manifest, "\x1b[2J": "[/x]"}))
    assert "\N{REPLACEMENT CHARACTER}[2J: Extra inputs" in here.ok("list", "--store", "nas")
    assert "\x1b" not in here.refused("pull", "hindi")


def test_a_push_that_failed_is_listed_with_its_reason(here: Site) -> None:
    here.versions.go_live(here.train(1))
    (upload,) = here.uploads.list()
    here.uploads.failed(upload, "no room on the share")
    told = here.ok("list")
    assert "nas: failed" in told
    assert "hindi@1 to nas: no room on the share" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pull", "hindi"), "error (unknown_adapter): store 'nas' has no adapter 'hindi'; it is empty"),
        (("pull", "hindi", "--store", "nass"), "error (invalid_parameter): unknown store 'nass'; did you mean 'nas'?"),
        (("push", "hindi"), "error (unknown_adapter): unknown adapter 'hindi'; none is trained yet"),
        (("verify", "hindi@1"), "error (unknown_adapter)"),
        (("remove", "hindi"), "error (invalid_parameter): 'hindi' names no version; write hindi@number"),
        (("remove", "hindi@1"), "error (unknown_adapter)"),
    ],
)
def test_an_error_is_one_clear_line_and_status_one(here: Site, arguments: tuple[str, ...], told: str) -> None:
    assert told in here.refused(*arguments)


def test_damage_is_found(here: Site) -> None:
    version = here.train(1)
    with (version.path / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert "error (adapter_format): version 000000000000 is damaged" in here.refused("verify", "hindi@1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{}"),
        ("manifest.json", '{"adapter_config.json": 1}'),
        ("manifest.json", '{"README.md": {"size_bytes": -1, "sha256": "x"}}'),
        ("adapter_config.json", "[1]"),
    ],
)
def test_a_damaged_version_hides_no_other_in_the_list(here: Site, name: str, content: str) -> None:
    here.train(1)
    (here.train(2).path / name).write_text(content)
    told = here.ok("list").splitlines()
    assert [("hindi@2" in line, "damaged" in line) for line in told if "hindi@" in line] == [
        (True, True),
        (False, False),
    ]


def test_a_version_of_another_base_does_not_verify(here: Site) -> None:
    here.train(1, base_id="f" * 64)
    assert "trained on" in here.refused("verify", "hindi@1")


def test_the_live_version_is_removed_by_force_only(here: Site) -> None:
    here.versions.go_live(here.train(1))
    second = here.versions.go_live(here.train(2))
    assert "hindi@2 is live" in here.refused("remove", "hindi@2")
    assert "hindi@2 was live; hindi@1 is live again" in here.ok("remove", "hindi@2", "--force")
    assert not second.path.exists()
    assert "hindi@1 was live; nothing is live under 'hindi'" in here.ok("remove", "hindi@1", "--force")


def test_a_removal_waits_for_requests_that_had_begun(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    version = here.train(1)
    lease = Lease(version.path)
    real, waited = type(here.versions).delete_files, threading.Event()

    def delete_files(self: object, version: Version, *, wait: bool) -> bool:
        if wait:
            assert version.path.exists()
            waited.set()
            lease.release()
        return real(here.versions, version, wait=wait)

    monkeypatch.setattr(type(here.versions), "delete_files", delete_files)
    assert "requests that had begun still use its files; waiting for them" in here.ok("remove", "hindi@1")
    assert waited.is_set()
    assert not version.path.exists()


def test_a_push_that_ends_after_its_version_was_removed_leaves_no_row(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = here.train(1)
    real = pushing.send_file

    def remove_first(*arguments: Any) -> None:
        if here.versions.list():
            here.versions.remove(version)
        real(*arguments)

    monkeypatch.setattr(pushing, "send_file", remove_first)
    assert "hindi@1 (000000000000) is in nas" in here.ok("push", "hindi@1")
    assert here.uploads.list() == ()


def test_a_disk_that_takes_nothing_is_one_clear_line(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("adapter_service.cli.adapters.Database", read_only)
    assert "error (storage_error): the disk of the state folder cannot be written" in here.refused("list")


@pytest.fixture
def running(here: Site, tiny_base: BaseModel) -> Iterator[tuple[Services, TestClient]]:
    """The service of `here`, started, with its own connection to the same database."""
    services = build_services(
        load_settings(here.config, here.sources, {}),
        load_base=lambda note: tiny_base,
        make_pipeline=lambda *_: QuickPipeline(),
    )
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services, client_of(services)
    services.stop()


def ask(client: TestClient, adapter: str) -> int:
    body = {"prompt": "hello", "adapter": adapter, "max_new_tokens": 2}
    return client.post("/generate-lite", json=body).status_code


def test_all_of_it_works_beside_a_running_service(
    here: Site, there: Site, running: tuple[Services, TestClient]
) -> None:
    _, client = running
    there.versions.go_live(there.train(1))
    there.ok("push", "hindi")
    assert ask(client, "hindi") == 404
    here.ok("pull", "hindi")
    assert (ask(client, "hindi"), ask(client, "hindi@1")) == (404, 200)
    here.ok("pull", "hindi", "--live")
    assert ask(client, "hindi") == 200
    here.ok("verify", "hindi")
    here.ok("remove", "hindi@1", "--force")
    assert (ask(client, "hindi"), ask(client, "hindi@1")) == (404, 404)
    assert here.ok("list").startswith("there are no versions")


def test_a_version_that_goes_live_in_the_service_reaches_the_share_and_the_list_says_so(
    here: Site, running: tuple[Services, TestClient]
) -> None:
    services, client = running
    version = here.train(1)
    services.versions.go_live(version)
    while not (here.uploads.list() and here.uploads.list()[0].status == "pushed"):
        threading.Event().wait(0.01)
    (adapter,) = client.get("/adapter/list").json()["adapters"]
    told = adapter["versions"][0]["stores"]
    assert told == {"nas": {"status": "pushed", "attempts": 1, "next_attempt_at": None, "reason": None}}
    assert (here.folder.parent.parent / "share" / "hindi" / version.key / "manifest.json").is_file()


def test_a_request_that_waits_keeps_its_version_until_it_has_ended(
    here: Site, running: tuple[Services, TestClient]
) -> None:
    services, client = running
    version = here.versions.go_live(here.train(1))
    busy, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        busy.set()
        go_on.wait(30)

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: services.engine.run(hold)),
        threading.Thread(target=lambda: answers.append(ask(client, "hindi"))),
    ]
    threads[0].start()
    assert busy.wait(30)
    threads[1].start()
    while not services.engine.waiting:
        threading.Event().wait(0.01)
    here.versions.remove(version, force=True)
    assert not here.versions.delete_files(version, wait=False)
    assert ask(client, "hindi") == 404
    go_on.set()
    for thread in threads:
        thread.join()
    assert answers == [200]
    assert here.versions.delete_files(version, wait=True)
    assert not version.path.exists()
