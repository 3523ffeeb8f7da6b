"""A node uses the newest adapter that is what was announced, whatever broke off before, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from adapter_service.errors import ServiceAnswerError, StoreUnreachableError
from adapter_service.node.active import NodeFolder
from adapter_service.node.notice import ReadyNotice
from adapter_service.node.service import Service
from adapter_service.node.taking import Outcome, Taker
from tests.node.artifact_server import SIGNED, ArtifactServer
from tests.node.zips import NOW, Zip, make_zip, notice_of

KEY = "canary-of-the-node"


@dataclass
class Node:
    """A node's folder, and what it said."""

    root: Path
    server: ArtifactServer
    said: list[dict[str, object]] = field(default_factory=list)
    has_service: bool = False
    max_bytes: int = 1 << 20

    @property
    def folder(self) -> NodeFolder:
        return NodeFolder(self.root)

    def taker(self, *, minutes: float = 5) -> Taker:
        """As after a start, so many minutes after noon."""
        service = Service(self.server.url, KEY) if self.has_service else None
        return Taker(
            self.folder,
            lambda event, **what: self.said.append({"event": event, **what}),
            service=service,
            max_bytes=self.max_bytes,
            now=lambda: NOW + timedelta(minutes=minutes),
        )

    def announce(self, made: Zip, *, number: int = 1, minutes: float = 0) -> ReadyNotice:
        url = self.server.add(f"{made.sha256}.zip", made.content)
        return notice_of(made, url, number=number, minutes=minutes)

    @property
    def uses(self) -> str | None:
        """The dataset hash of the adapter in use."""
        active = self.folder.active()
        return None if active is None else active.dataset_hash

    @property
    def events(self) -> list[object]:
        return [said["event"] for said in self.said]


@pytest.fixture
def node(tmp_path: Path, server: ArtifactServer) -> Node:
    return Node(tmp_path / "kitchen", server)


def test_what_is_announced_is_fetched_verified_and_used(node: Node) -> None:
    made = make_zip()
    assert node.taker().take(node.announce(made)) is Outcome.ACTIVATED
    assert node.uses == made.dataset_hash
    files = {path.name for path in node.folder.files(made.sha256).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert not node.folder.part(made.sha256).exists()
    assert node.events == ["downloaded", "activated"]


def test_the_same_notice_again_changes_nothing_and_fetches_nothing(node: Node) -> None:
    notice = node.announce(make_zip())
    node.taker().take(notice)
    assert node.taker().take(notice) is Outcome.DUPLICATE
    assert len(node.server.ranges) == 1


def test_an_older_notice_never_replaces_a_newer_adapter(node: Node) -> None:
    older, newer = make_zip(1), make_zip(2)
    first, second = node.announce(older, number=1, minutes=1), node.announce(newer, number=2, minutes=2)
    assert node.taker().take(second) is Outcome.ACTIVATED
    assert node.taker().take(first) is Outcome.OLDER
    assert node.uses == newer.dataset_hash


def test_an_adapter_that_was_published_again_is_not_fetched_again_and_is_as_new_as_that(node: Node) -> None:
    first, second = make_zip(1), make_zip(2)
    node.taker().take(node.announce(first, number=1, minutes=1))
    assert node.taker().take(node.announce(first, number=3, minutes=3)) is Outcome.DUPLICATE
    assert len(node.server.ranges) == 1
    assert node.taker().take(node.announce(second, number=2, minutes=2)) is Outcome.OLDER
    assert node.uses == first.dataset_hash


def test_back_to_the_adapter_before_needs_no_download(node: Node) -> None:
    for number, seed in enumerate((1, 2, 1), start=1):
        assert node.taker().take(node.announce(make_zip(seed), number=number, minutes=number)) is Outcome.ACTIVATED
    assert len(node.server.ranges) == 2


def test_only_the_adapter_in_use_and_the_one_before_are_kept(node: Node) -> None:
    made = [make_zip(seed) for seed in range(1, 5)]
    for number, one in enumerate(made, start=1):
        node.taker().take(node.announce(one, number=number, minutes=number))
    assert [node.folder.files(one.sha256).is_dir() for one in made] == [False, False, True, True]


def test_a_download_that_broke_off_goes_on_where_it_was(node: Node) -> None:
    made = make_zip(size_bytes=50_000)
    notice = node.announce(made)
    node.server.cut_after = 20_000
    with pytest.raises(StoreUnreachableError):
        node.taker().take(notice)
    assert node.uses is None
    assert node.taker().take(notice) is Outcome.ACTIVATED
    assert node.server.ranges == [None, "bytes=20000-"]
    assert node.said[0]["resumed_from_bytes"] == 20_000


def test_a_server_that_knows_no_ranges_is_asked_for_everything(node: Node) -> None:
    made = make_zip(size_bytes=50_000)
    notice = node.announce(made)
    node.server.allows_ranges = False
    node.server.cut_after = 20_000
    with pytest.raises(StoreUnreachableError):
        node.taker().take(notice)
    assert node.taker().take(notice) is Outcome.ACTIVATED


@pytest.mark.parametrize("left", [b"?" * 20_000, b"?" * 1_000_000], ids=["damaged", "too long"])
def test_what_a_power_cut_left_is_fetched_anew(node: Node, left: bytes) -> None:
    made = make_zip(size_bytes=50_000)
    part = node.folder.part(made.sha256)
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert node.taker().take(node.announce(made)) is Outcome.ACTIVATED


def test_a_download_that_was_whole_when_the_node_died_is_used_without_the_server(node: Node) -> None:
    made = make_zip()
    notice = node.announce(made)
    part = node.folder.part(made.sha256)
    part.parent.mkdir(parents=True)
    part.write_bytes(made.content)
    assert node.taker().take(notice) is Outcome.ACTIVATED
    assert node.server.ranges == []


def test_a_node_that_died_before_the_switch_switches_without_a_download(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    notice = node.announce(make_zip())

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(NodeFolder, "activate", die)
        with pytest.raises(KeyboardInterrupt):
            node.taker().take(notice)
    assert node.uses is None
    assert node.taker().take(notice) is Outcome.ACTIVATED
    assert len(node.server.ranges) == 1


@pytest.mark.parametrize("spoil", [lambda b: b[:100] + b"?" + b[101:], lambda b: b + b"?", lambda b: b[:-1]])
def test_a_zip_that_is_not_what_was_announced_is_never_used(node: Node, spoil: object) -> None:
    made = make_zip()
    notice = node.announce(made)
    node.server.files[f"{made.sha256}.zip"] = spoil(made.content)  # type: ignore[operator]
    try:
        assert node.taker().take(notice) is Outcome.REFUSED
    except StoreUnreachableError:
        assert len(node.server.files[f"{made.sha256}.zip"]) < len(made.content)  # it may still come
    assert node.uses is None


@pytest.mark.parametrize(
    "made",
    [
        make_zip(node_id="hall"),
        make_zip(more={"../../outside.json": b"{}"}),
        make_zip(more={"unknown.json": b"{}"}),
        Zip(b"PK no zip", f"{1:064x}"),
    ],
    ids=["of another node", "that climbs out", "with a stranger in it", "that is none"],
)
def test_a_zip_that_was_announced_and_is_no_adapter_of_this_node_is_never_used(node: Node, made: Zip) -> None:
    before = make_zip(7)
    node.taker().take(node.announce(before))
    assert node.taker().take(node.announce(made, number=2, minutes=1)) is Outcome.REFUSED
    assert node.uses == before.dataset_hash
    assert not node.folder.files(made.sha256).exists()
    assert list(node.root.parent.rglob("outside.json")) == []


def test_one_that_is_too_large_is_not_even_fetched(node: Node) -> None:
    node.max_bytes = 2000
    assert node.taker().take(node.announce(make_zip(size_bytes=3000))) is Outcome.REFUSED
    assert node.server.ranges == []


def test_a_server_that_is_busy_is_asked_again_later(node: Node) -> None:
    notice = node.announce(make_zip())
    node.server.statuses = [503, 429]
    for _ in range(2):
        with pytest.raises(StoreUnreachableError):
            node.taker().take(notice)
    assert node.taker().take(notice) is Outcome.ACTIVATED


def test_without_the_service_what_has_expired_is_left(node: Node) -> None:
    assert node.taker(minutes=60 * 49).take(node.announce(make_zip())) is Outcome.EXPIRED
    assert node.server.ranges == []


@pytest.mark.parametrize(("minutes", "statuses"), [(60 * 49, []), (5, [403])], ids=["too late", "refused"])
def test_for_an_old_url_the_service_has_a_new_one(node: Node, minutes: float, statuses: list[int]) -> None:
    made = make_zip()
    notice = node.announce(made)
    node.has_service, node.server.statuses = True, statuses
    node.server.fresh["job_1"] = notice.adapter_url
    assert node.taker(minutes=minutes).take(notice) is Outcome.ACTIVATED
    assert "new_url" in node.events
    assert node.server.keys == {f"Bearer {KEY}"}


def test_where_the_service_has_no_new_url_it_is_left(node: Node) -> None:
    node.has_service = True
    assert node.taker(minutes=60 * 49).take(node.announce(make_zip())) is Outcome.EXPIRED


def test_a_service_that_does_not_know_the_key_is_asked_again(node: Node) -> None:
    node.has_service, node.server.service_status = True, 401
    with pytest.raises(ServiceAnswerError, match="check this node's key"):
        node.taker(minutes=60 * 49).take(node.announce(make_zip()))


def test_the_service_is_told_once_that_the_node_has_it(node: Node) -> None:
    node.has_service = True
    node.taker().take(node.announce(make_zip()))
    assert node.taker().acknowledge()
    assert node.taker().acknowledge()
    assert node.server.acknowledged == ["job_1"]


def test_a_service_that_was_away_is_told_after_the_next_start(node: Node) -> None:
    node.has_service, node.server.service_status = True, 503
    node.taker().take(node.announce(make_zip()))
    assert not node.taker().acknowledge()
    node.server.service_status = 200
    assert node.taker().acknowledge()
    assert node.server.acknowledged == ["job_1"]


def test_that_an_artifact_is_gone_already_is_as_good(node: Node) -> None:
    node.has_service, node.server.service_status = True, 404
    node.taker().take(node.announce(make_zip()))
    assert node.taker().acknowledge()


def test_a_file_that_says_what_is_used_and_is_damaged_is_replaced_by_the_next_notice(node: Node) -> None:
    node.taker().take(node.announce(make_zip()))
    (node.root / "current.json").write_text("{")
    made = make_zip(2)
    assert node.taker().take(node.announce(made, number=2, minutes=1)) is Outcome.ACTIVATED
    assert "damaged" in node.events
    assert node.uses == made.dataset_hash


def test_what_is_said_has_neither_url_nor_key(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    node.has_service = True
    notice = node.announce(make_zip())
    node.server.statuses = [503, 404]
    for _ in range(2):
        try:
            node.taker().take(notice)
        except StoreUnreachableError as error:
            node.said.append({"error": str(error)})
    said = json.dumps(node.said) + repr(notice) + "".join(capfd.readouterr())
    assert SIGNED not in said
    assert KEY not in said
