"""From a store to a version here: found by name, number or key, and nothing served that is not what it says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_service.adapters import Version, VersionStatus
from adapter_service.adapters.lease import Lease, unused
from adapter_service.errors import (
    AdapterFormatError,
    AdapterServiceError,
    ConflictError,
    InvalidParameterError,
    StorageFullError,
    StoreError,
    UnknownAdapterError,
)
from adapter_service.publishing.folder_store import FolderStore
from adapter_service.publishing.pulling import choose, list_store, pull
from adapter_service.publishing.pushing import push
from adapter_service.publishing.store import Store
from tests.publishing.conftest import Machine, MakeMachine, folder_store


@pytest.fixture
def there(make_machine: MakeMachine) -> Machine:
    """The machine that trains and pushes."""
    return make_machine("there")


def take(machine: Machine, store: Store, reference: str = "hindi", name: str | None = None, **options: Any) -> Version:
    found = choose(store, reference)
    work_dir = machine.folder / "work"
    return pull(
        found,
        store,
        machine.versions,
        lambda: machine.base,
        name=name or found.adapter,
        work_dir=work_dir,
        max_bytes=options.get("max_bytes", 1 << 30),
    )


def test_a_pulled_version_is_a_candidate_with_the_same_bytes(machine: Machine, there: Machine, store: Store) -> None:
    original = there.train(1)
    push(original, store)
    pulled = take(machine, store)
    assert (pulled.reference, pulled.status, pulled.key) == ("hindi@1", VersionStatus.CANDIDATE, original.key)
    assert (pulled.job_id, pulled.base_id) == (None, original.base_id)
    assert pulled.gate == {"verdict": "pulled", "store": store.name, "version": "hindi@1", "there": original.gate}
    for path in original.path.iterdir():
        assert (pulled.path / path.name).read_bytes() == path.read_bytes()
    machine.versions.verify(pulled)
    assert list((machine.folder / "work").iterdir()) == []


def test_pulling_what_is_here_already_changes_nothing(machine: Machine, there: Machine, store: Store) -> None:
    push(there.train(1), store)
    assert take(machine, store) == take(machine, store)
    assert len(machine.versions.list()) == 1


def test_what_is_here_and_damaged_is_not_taken_for_what_the_store_has(
    machine: Machine, there: Machine, store: Store
) -> None:
    push(there.train(1), store)
    here = take(machine, store)
    (here.path / "adapter_model.safetensors").write_bytes(b"rotten")
    with pytest.raises(AdapterFormatError, match=r"is damaged: .* remove it, then train or pull it again"):
        take(machine, store)
    machine.versions.remove(here)
    machine.versions.delete_files(here, wait=False)
    machine.versions.verify(take(machine, store))


def test_a_version_may_be_called_otherwise_here(machine: Machine, there: Machine, store: Store) -> None:
    push(there.train(1), store)
    assert take(machine, store, name="from-berlin").reference == "from-berlin@1"
    with pytest.raises(InvalidParameterError, match="name is not allowed"):
        take(machine, store, name="../hindi")


def test_the_newest_is_chosen_by_name_and_any_by_number_or_key(there: Machine, store: Store) -> None:
    first, second = there.train(1), there.train(2)
    push(second, store)
    push(first, store)
    assert choose(store, "hindi").key == second.key
    assert choose(store, "hindi@1").key == first.key
    assert choose(store, f"hindi@{first.key}").key == first.key


def test_the_beginning_of_a_key_will_do_where_it_means_one(make_machine: MakeMachine, store: Store) -> None:
    one, other = make_machine("one"), make_machine("other")
    for seed, begins, machine in ((1, "ab", one), (2, "cd", other)):
        work = machine.train(seed, "draft").path
        (work / "manifest.json").unlink()
        key = begins * 32
        push(machine.versions.publish("hindi", work, key=key, job_id=None, base_id=machine.base.identity), store)
    assert choose(store, "hindi@abababab").key == "ab" * 32
    with pytest.raises(ConflictError, match=r"several versions that 'hindi@1' may mean; name one: hindi@(ab|cd){6},"):
        choose(store, "hindi@1")


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("hindy", r"no adapter 'hindy'; did you mean 'hindi'\? it has hindi"),
        ("hindi@7", r"no 'hindi@7'; it has hindi@1 \(000000000000\)"),
        ("hindi@abc", "no 'hindi@abc'"),
    ],
)
def test_what_a_store_does_not_have_is_said_with_what_it_has(
    there: Machine, store: Store, reference: str, told: str
) -> None:
    push(there.train(1), store)
    with pytest.raises(UnknownAdapterError, match=told):
        choose(store, reference)


def test_an_empty_store_says_so(store: Store) -> None:
    assert list_store(store).versions == ()
    with pytest.raises(UnknownAdapterError, match="it is empty"):
        choose(store, "hindi")


def test_a_version_of_another_base_is_refused_before_its_weights_are_read(
    machine: Machine, there: Machine, tmp_path: Path
) -> None:
    store = folder_store(tmp_path / "nas")
    version = there.train(1, base_id="f" * 64)
    push(version, store)
    (tmp_path / "nas" / "hindi" / version.key / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterFormatError, match=r"trained on .*\(ffffffffffff\), and the base here is"):
        take(machine, store)


def test_more_bytes_than_are_allowed_are_refused(machine: Machine, there: Machine, store: Store) -> None:
    push(there.train(1), store)
    with pytest.raises(AdapterFormatError, match=r"MB, more than publishing.max_pull_mb allows \(0.1 MB\)"):
        take(machine, store, max_bytes=1000)


def test_a_key_that_is_here_with_other_weights_is_refused_under_any_name(
    machine: Machine, there: Machine, store: Store
) -> None:
    mine = machine.train(5, "draft").path
    (mine / "manifest.json").unlink()
    machine.versions.publish("mine", mine, key=f"{1:064x}", job_id=None, base_id=machine.base.identity)
    push(there.train(1), store)
    with pytest.raises(ConflictError, match=r"mine@1 has the key of hindi@1 \(0+\) and other weights"):
        take(machine, store)


# What somebody who can write to the store may put there. Each is given the version's folder and its manifest.
Tamper = Callable[[Path, dict[str, Any]], None]


def _weights(content: bytes) -> Tamper:
    def tamper(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content)
        _describe(folder, manifest, "adapter_model.safetensors")

    return tamper


def _config(**changes: Any) -> Tamper:
    def tamper(folder: Path, manifest: dict[str, Any]) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        _describe(folder, manifest, path.name)

    return tamper


def _tensors(**changes: Any) -> Tamper:
    """Change tensors by the beginning of their names; keep the hashes right."""

    def tamper(folder: Path, manifest: dict[str, Any]) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        first = next(iter(tensors))
        tensors = changes["edit"](tensors, first)
        save_file(tensors, path)
        _describe(folder, manifest, path.name)

    return tamper


def _describe(folder: Path, manifest: dict[str, Any], name: str) -> None:
    content = (folder / name).read_bytes()
    manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _named(name: str) -> Tamper:
    def tamper(folder: Path, manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"]["README.md"]

    return tamper


def _changed(**changes: Any) -> Tamper:
    return lambda _, manifest: manifest.update(changes)


def _bigger(folder: Path, manifest: dict[str, Any]) -> None:
    with (folder / "README.md").open("ab") as file:
        file.write(b"x" * 3_000_000)


def _link(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "README.md").rename(folder.parent.parent / "secret")
    (folder / "README.md").symlink_to(folder.parent.parent / "secret")


def _nan(tensors: dict[str, Any], first: str) -> dict[str, Any]:
    tensors[first].view(-1)[3] = float("nan")
    return tensors


def _as_float8(tensors: dict[str, Any], _: str) -> dict[str, Any]:
    import torch

    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (_weights(b"\x80\x04cos\nsystem\n"), "no safetensors file"),
        (lambda folder, _: (folder / "adapter_config.json").write_bytes(b"{}"), "bytes or more and the hash"),
        (_bigger, "bytes or more and the hash"),
        (_link, "no plain file"),
        (lambda folder, _: (folder / "README.md").unlink(), "no plain file"),
        (_named("../../../evil"), r"names '../../../evil', which is no file of an adapter"),
        (_named("/etc/passwd"), "which is no file of an adapter"),
        (_named("adapter_model.bin"), "which is no file of an adapter"),
        (_named("sub/README.md"), "which is no file of an adapter"),
        (_changed(format=2), "format"),
        (_changed(adapter="../x"), "adapter"),
        (_changed(adapter="tamil"), "speaks of tamil/"),
        (_changed(key="f" * 64), "speaks of hindi/f"),
        (_changed(auto_map={"x": "y"}), "auto_map"),
        (_changed(gate={"a": 1e999}), "gate"),
        (_config(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
        (_config(r=0), "rank 0; 1 to 1024"),
        (_config(r=4096), "rank 4096; 1 to 1024"),
        (_config(r=float("inf")), "rank inf"),
        (_config(r=True), "rank True"),
        (_config(r=10**400), "rank 1000"),
        (_config(lora_alpha=float("nan")), "alpha nan"),
        (_config(lora_alpha=10**400), "alpha 1000"),
        (_config(lora_dropout=10**400), "a value that cannot be"),
        (_config(rank_pattern={"q_proj": 10**9}), "rank 1000000000"),
        (_config(rank_pattern={"(a+)+$": 2}), "could take for ever"),
        (_config(alpha_pattern={".*.*.*x": 2}), "could take for ever"),
        (_config(alpha_pattern={".?" * 30 + "x": 2}), "could take for ever"),
        (_config(alpha_pattern={"(.|.)" * 30 + "x": 2}), "could take for ever"),
        (_config(rank_pattern=[1]), "rank_pattern of adapter_config.json is no object"),
        (_config(peft_type="LOHA"), "only LORA is served"),
        (_config(use_dora=True), "use_dora"),
        (_tensors(edit=_nan), "not finite"),
        (_tensors(edit=lambda tensors, first: {k: v for k, v in tensors.items() if k != first}), "only one of the two"),
        (_tensors(edit=lambda tensors, first: {**tensors, "x": tensors[first].clone()}), "29 tensors, and the base 14"),
        (_tensors(edit=lambda tensors, first: {"x" * 400: tensors[first]}), "which no layer is"),
        (_tensors(edit=lambda tensors, first: {**tensors, first: tensors[first][:, :-1].contiguous()}), "this base"),
        (_tensors(edit=lambda tensors, _: {k.replace("layers.1", "layers.9"): v for k, v in tensors.items()}),
         "which this base does not have"),
        (_tensors(edit=lambda tensors, _: {k: v.int() for k, v in tensors.items()}), "floating-point"),
        (_tensors(edit=_as_float8), "floating-point"),
        (_tensors(edit=lambda tensors, _: {k: v.double() * 1e300 for k, v in tensors.items()}), "not finite"),
    ],
)  # fmt: skip
def test_what_is_not_what_it_says_is_never_served(
    machine: Machine, there: Machine, tmp_path: Path, tamper: Tamper, told: str
) -> None:
    store = folder_store(tmp_path / "nas")
    version = there.train(1)
    push(version, store)
    folder = tmp_path / "nas" / "hindi" / version.key
    manifest = json.loads((folder / "manifest.json").read_text())
    tamper(folder, manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AdapterServiceError, match=told):
        take(machine, store)
    assert machine.versions.list() == ()
    assert [path for path in machine.folder.rglob("*") if path.is_file() and "service.db" not in path.name] == []


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000, b" " * 2_000_000])
def test_a_manifest_that_is_none_is_told_in_the_list_and_hides_no_other(
    there: Machine, tmp_path: Path, content: bytes
) -> None:
    store = folder_store(tmp_path / "nas")
    good, bad = there.train(1), there.train(2)
    push(good, store)
    push(bad, store)
    (tmp_path / "nas" / "hindi" / bad.key / "manifest.json").write_bytes(content)
    listing = list_store(store)
    assert [version.key for version in listing.versions] == [good.key]
    assert len(listing.faults) == 1
    assert "manifest" in listing.faults[0]
    assert choose(store, "hindi").key == good.key


def test_a_pull_that_fails_in_the_middle_leaves_nothing(
    machine: Machine, there: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(there.train(1), store)
    real = type(store).get

    def break_off(self: Store, place: Any, name: str, target: Path, limit_bytes: int) -> None:
        if name == "adapter_model.safetensors":
            raise StoreError("the cable was pulled")
        real(self, place, name, target, limit_bytes)

    monkeypatch.setattr(type(store), "get", break_off)
    with pytest.raises(StoreError, match="cable"):
        take(machine, store)
    assert list((machine.folder / "work").iterdir()) == []
    monkeypatch.undo()
    assert take(machine, store).number == 1


def test_a_full_disk_here_is_no_fault_of_the_store(
    machine: Machine, there: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    push(there.train(1), store)
    machine.train(9)  # the folders are there
    with monkeypatch.context() as disk:
        disk.setattr("adapter_service.publishing.copying.os.fsync", full)
        with pytest.raises(StorageFullError, match="the disk of the state folder is full; make room"):
            take(machine, store)
    assert take(machine, store).adapter == "hindi"


def test_what_a_killed_pull_left_is_removed_by_the_next(machine: Machine, there: Machine, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "nas")
    push(there.train(1), store)
    left = machine.folder / "work" / "pull-abandoned"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(b"half")
    take(machine, store)
    assert not left.exists()


def test_a_pull_that_begins_is_not_taken_by_another_for_one_that_was_killed(
    machine: Machine, there: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, others_may_begin = folder_store(tmp_path / "nas"), []
    push(there.train(1), store)

    def look_first(folder: Path) -> Lease:
        with unused(folder.parent, wait=False) as free:
            others_may_begin.append(free)
        return Lease(folder)

    monkeypatch.setattr("adapter_service.publishing.pulling.Lease", look_first)
    take(machine, store)
    assert others_may_begin == [False]


def test_an_outline_of_the_base_is_the_base(machine: Machine, tiny_base: Any) -> None:
    assert machine.base.identity == tiny_base.identity
    assert all(parameter.is_meta for parameter in machine.base.model.parameters())


def test_hidden_and_foreign_folders_are_no_versions(there: Machine, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "nas")
    version = there.train(1)
    push(version, store)
    for name in (".hidden", "Upper", "hindi/.0000000000000000.w1", "hindi/latest", "hindi/" + "e" * 64):
        (tmp_path / "nas" / name).mkdir()
    os.mkfifo(tmp_path / "nas" / "pipe")
    assert [place.key for place in FolderStore("nas", tmp_path / "nas", writer="w").places()] == [version.key]
