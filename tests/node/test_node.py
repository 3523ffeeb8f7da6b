"""`python -m adapter_service.node` as a process, with a real broker and a real service's notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish as sending
from paho.mqtt.client import MQTTv5

from adapter_service.delivery.mqtt import MqttPublisher
from adapter_service.delivery.notices import AdapterReady
from adapter_service.delivery.notifier import Notifier
from adapter_service.delivery.outbox import NoticeKind, NoticeStatus
from adapter_service.node.__main__ import main
from adapter_service.node.active import NodeFolder
from adapter_service.settings.command_sections import MqttSettings
from tests.delivery.hub import Hub, Shelf
from tests.mosquitto import Mosquitto
from tests.node.artifact_server import SIGNED, ArtifactServer
from tests.node.zips import Zip, make_zip
from tests.waiting import eventually

KEY = "canary-of-the-node"


@pytest.fixture
def service(tmp_path: Path, broker: Mosquitto, server: ArtifactServer) -> Iterator[Service]:
    service = Service(tmp_path / "service.db", broker, server)
    yield service
    service.close()


class Service(Hub):
    """Publishes adapters of the kitchen's, and tells of them over the broker."""

    def __init__(self, path: Path, broker: Mosquitto, server: ArtifactServer) -> None:
        super().__init__(path)
        self.server = server
        self.urls: dict[str, str] = {}
        self.artifacts = Shelf(url_of=self.urls)
        self.publisher = MqttPublisher(MqttSettings(broker_url=broker.url))
        ready = AdapterReady(
            self.deliveries, self.artifacts, self.publisher, topic="jarvis/nodes/{node_id}/adapters", now=self.clock
        )
        couriers = {NoticeKind.ADAPTER_READY: ready}
        self.notifier = Notifier(self.outbox, couriers, first_wait_seconds=1, longest_wait_seconds=300, now=self.clock)

    def close(self) -> None:
        self.publisher.close()
        super().close()

    def deliver(self, made: Zip) -> str:
        """Publish it and tell the kitchen; the id of that event."""
        self.clock.forward(minutes=1)
        published = self.publish("kitchen", sha256=made.sha256, size_bytes=len(made.content))
        self.urls[str(published.object_key)] = self.server.add(f"{made.sha256}.zip", made.content)
        self.tell()
        return self.notices()[-1].event_id

    def tell(self) -> None:
        self.notifier.notify_due()
        assert self.notices()[-1].status is NoticeStatus.SENT

    def tell_again(self) -> None:
        """As after a crash between the broker's acknowledgement and the row."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE outbox SET status = 'pending'")
        self.tell()


class NodeProcess:
    """One node in a folder, started and killed as often as wanted; `said` is what the processes wrote."""

    def __init__(self, folder: Path, broker: Mosquitto, *more: str) -> None:
        self.folder = NodeFolder(folder)
        self._output = folder.with_suffix(".out")
        self._command = [sys.executable, "-m", "adapter_service.node", "--node-id", "kitchen"]
        self._command += ["--broker", broker.url, "--folder", str(folder), *more]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It listens when this returns."""
        before = self.count("listening")
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, env=os.environ | {"NODE_KEY": KEY}
            )
        eventually(lambda: self.count("listening") > before, f"the node listens: {self.text}", seconds=60)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def ends(self) -> int:
        assert self._process is not None
        code = self._process.wait(60)
        self._process = None
        return code

    @property
    def text(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]

    def count(self, event: str) -> int:
        return sum(said["event"] == event for said in self.said)

    def says(self, event: str, times: int = 1) -> dict[str, Any]:
        """What it said of `event` the `times`th time."""
        eventually(lambda: self.count(event) >= times, f"{times} times {event}: {self.text}", seconds=60)
        return [said for said in self.said if said["event"] == event][times - 1]

    @property
    def uses(self) -> str | None:
        active = self.folder.active()
        return None if active is None else active.sha256


MakeNode = Callable[..., NodeProcess]


@pytest.fixture
def make_node(tmp_path: Path, broker: Mosquitto) -> Iterator[MakeNode]:
    made: list[NodeProcess] = []

    def make(*more: str) -> NodeProcess:
        made.append(NodeProcess(tmp_path / "kitchen", broker, *more))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def node(make_node: MakeNode, server: ArtifactServer) -> NodeProcess:
    """One that acknowledges to the service, and listens."""
    node = make_node("--service", server.url, "--key-env", "NODE_KEY")
    node.start()
    return node


def test_a_node_uses_its_new_adapter_and_says_so(service: Service, node: NodeProcess) -> None:
    made = make_zip()
    event_id = service.deliver(made)
    assert node.says("activated")["event_id"] == event_id
    node.says("acknowledged")
    assert node.uses == made.sha256
    assert (service.server.acknowledged, service.server.keys) == (["job_1"], {f"Bearer {KEY}"})
    assert SIGNED not in node.text
    assert KEY not in node.text


def test_a_node_that_was_away_uses_the_newest_when_it_comes_back(service: Service, node: NodeProcess) -> None:
    node.kill(signal.SIGTERM)
    made = [make_zip(seed) for seed in (1, 2, 3)]
    for one in made:
        service.deliver(one)
    node.start()
    eventually(lambda: node.uses == made[-1].sha256, f"the newest is used: {node.text}", seconds=60)
    eventually(lambda: node.count("older") + node.count("activated") == 3, f"the rest is done: {node.text}")
    assert node.uses == made[-1].sha256


def test_a_notice_that_comes_twice_is_taken_once(service: Service, node: NodeProcess) -> None:
    service.deliver(make_zip())
    node.says("activated")
    service.tell_again()
    node.says("duplicate")
    assert (node.count("activated"), len(service.server.ranges)) == (1, 1)


def test_a_node_that_was_killed_while_it_fetched_goes_on_where_it_was(service: Service, node: NodeProcess) -> None:
    made = make_zip(size_bytes=500_000)
    service.server.stall_after = 200_000
    service.deliver(made)
    assert service.server.stalled.wait(60)
    part = node.folder.part(made.sha256)
    eventually(lambda: part.exists() and part.stat().st_size > 0, "something is on the disk", seconds=60)
    node.kill()
    assert node.uses is None
    node.start()
    assert node.says("downloaded")["resumed_from_bytes"] > 0
    node.says("activated")
    assert node.uses == made.sha256
    assert service.server.ranges[0] is None
    assert service.server.ranges[1] is not None


def test_a_tampered_zip_is_refused_and_the_adapter_before_stays(service: Service, node: NodeProcess) -> None:
    before, made = make_zip(1), make_zip(2)
    service.deliver(before)
    node.says("activated")
    name = f"{made.sha256}.zip"
    node.kill()
    service.deliver(made)
    service.server.files[name] = made.content[:500] + b"?" + made.content[501:]
    node.start()
    assert "was announced" in node.says("refused")["reason"]
    assert node.uses == before.sha256


def test_while_an_artifact_cannot_be_fetched_its_notice_is_not_acknowledged(
    service: Service, make_node: MakeNode
) -> None:
    node, made = make_node(), make_zip()
    node.start()
    service.server.statuses = [503] * 100
    service.deliver(made)
    node.says("waiting")
    node.kill()
    service.server.statuses = []
    node.start()
    node.says("activated")
    assert node.uses == made.sha256


def test_a_node_finds_its_broker_again(service: Service, node: NodeProcess, broker: Mosquitto) -> None:
    broker.stop()
    node.says("disconnected")
    broker.start()
    node.says("listening", times=2)
    made = make_zip()
    service.deliver(made)
    node.says("activated")
    assert node.uses == made.sha256


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"event": "adapter_ready"}', b"\xff" * 100_000])
def test_what_is_no_notice_is_passed_over(
    service: Service, node: NodeProcess, broker: Mosquitto, payload: bytes
) -> None:
    where = {"hostname": "127.0.0.1", "port": broker.port, "protocol": MQTTv5}
    sending.single("jarvis/nodes/kitchen/adapters", payload, qos=1, **where)  # type: ignore[arg-type]
    node.says("ignored")
    service.deliver(make_zip())
    node.says("activated")


def test_with_once_it_ends_with_its_first_notice(service: Service, make_node: MakeNode) -> None:
    node = make_node("--once")
    node.start()
    service.deliver(make_zip())
    assert node.ends() == 0
    node.start()
    made = make_zip(2, node_id="hall")
    service.deliver(made)
    assert node.ends() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--node-id", "a/b", "--broker", "mqtt://127.0.0.1:1", "--folder", "x"], "is no node's id"),
        (["--node-id", "kitchen", "--broker", "127.0.0.1", "--folder", "x"], "mqtt://127.0.0.1:1883"),
        (
            ["--node-id", "a", "--broker", "mqtt://x", "--folder", "x", "--service", "x", "--key-env", "NOT_SET"],
            "export NOT_SET=",
        ),
    ],
)
def test_what_it_cannot_be_started_with_is_said(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert words in capsys.readouterr().err
