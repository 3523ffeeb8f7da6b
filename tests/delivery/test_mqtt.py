"""Notices through a real broker that is away, dies, refuses, hangs: none is lost, each keeps its id."""

from __future__ import annotations

import datetime as dt
import gc
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from adapter_service.delivery.mqtt import MqttPublisher
from adapter_service.delivery.notices import AdapterReady
from adapter_service.delivery.notifier import Notifier
from adapter_service.delivery.outbox import NoticeKind, NoticeStatus
from adapter_service.errors import BrokerAwayError, NoticeError, SettingsError
from adapter_service.settings.command_sections import MqttSettings
from tests.delivery.hub import SIGNED, Hub
from tests.delivery.subscriber import Subscriber
from tests.mosquitto import Mosquitto, password_line
from tests.waiting import eventually

PASSWORD = "canary-of-the-broker"  # noqa: S105 - of a broker that ends with its test
WORD = "${WORD}"
TOPIC = "jarvis/nodes/{node_id}/adapters"
SOON = timedelta(hours=1)


@pytest.fixture
def kitchen(broker: Mosquitto) -> Iterator[Subscriber]:
    node = Subscriber(broker.port, "jarvis/nodes/kitchen/#")
    node.start()
    yield node
    node.stop()


def settings_for(url: str, **more: Any) -> MqttSettings:
    return MqttSettings(broker_url=url, **{"acknowledge_seconds": 5.0, "first_wait_seconds": 0.01} | more)


@pytest.fixture
def publisher(broker: Mosquitto) -> Iterator[MqttPublisher]:
    publisher = MqttPublisher(settings_for(broker.url))
    yield publisher
    publisher.close()


def notifier_of(hub: Hub, publisher: MqttPublisher) -> Notifier:
    ready = AdapterReady(hub.deliveries, hub.artifacts, publisher, topic=TOPIC, now=hub.clock)
    return Notifier(
        hub.outbox,
        {NoticeKind.ADAPTER_READY: ready},
        first_wait_seconds=1,
        longest_wait_seconds=300,
        now=hub.clock,
        close=publisher.close,
    )


def test_a_node_hears_of_its_adapter_as_long_as_that_can_be_fetched(
    hub: Hub, publisher: MqttPublisher, kitchen: Subscriber
) -> None:
    published = hub.publish("kitchen")
    assert notifier_of(hub, publisher).notify_due() == 1
    (notice,) = kitchen.hears(1)
    assert set(notice) >= {"event_id", "node_id", "base_model_id", "adapter_url", "dataset_hash", "created_at"}
    assert (notice["job_id"], notice["event_id"]) == (published.job_id, hub.only().event_id)
    assert SIGNED in notice["adapter_url"]
    (properties,) = kitchen.properties
    assert 172_800 - 60 <= properties.MessageExpiryInterval <= 172_800


def test_a_node_that_is_away_hears_of_it_when_it_comes_back(
    hub: Hub, publisher: MqttPublisher, kitchen: Subscriber
) -> None:
    kitchen.stop()
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    assert hub.only().status is NoticeStatus.SENT
    kitchen.start()
    assert kitchen.hears(1)[0]["event_id"] == hub.only().event_id


def test_a_kept_notice_is_heard_by_who_comes_later(hub: Hub, broker: Mosquitto) -> None:
    publisher = MqttPublisher(settings_for(broker.url, retain=True))
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    publisher.close()
    late = Subscriber(broker.port, "jarvis/nodes/kitchen/adapters")
    late.start()
    late.hears(1)
    late.stop()
    assert late.retained == [True]


def test_a_broker_that_is_down_is_told_later(hub: Hub, broker: Mosquitto, publisher: MqttPublisher) -> None:
    broker.stop()
    notifier = notifier_of(hub, publisher)
    hub.publish("kitchen")
    assert notifier.notify_due() == 1
    assert "cannot be reached" in str(hub.only().reason)
    broker.start()
    node = Subscriber(broker.port, "jarvis/nodes/kitchen/adapters")
    node.start()
    hub.clock.forward(minutes=1)
    assert notifier.notify_due() == 1
    assert node.hears(1)[0]["event_id"] == hub.only().event_id
    node.stop()


def test_a_broker_that_was_restarted_while_nothing_was_told_is_told_at_once(
    hub: Hub, broker: Mosquitto, publisher: MqttPublisher, kitchen: Subscriber
) -> None:
    publisher.publish("jarvis/nodes/kitchen/first", b'{"event": "first"}', expires_in=SOON)
    kitchen.hears(1)
    kitchen.stop()
    broker.stop()
    broker.start()
    kitchen.start()
    connection = publisher._connection
    assert connection is not None
    eventually(lambda: not connection.is_alive, "the end of the connection is seen", seconds=30)
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    assert kitchen.hears(2)[-1]["event_id"] == hub.only().event_id


def test_what_a_restarted_broker_had_taken_is_not_lost(
    hub: Hub, broker: Mosquitto, publisher: MqttPublisher, kitchen: Subscriber
) -> None:
    kitchen.stop()
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    broker.stop()
    broker.start()
    kitchen.start()
    assert kitchen.hears(1)[0]["event_id"] == hub.only().event_id


class Swallowing:
    """A proxy before the broker that passes everything to it, and of its answers none that follows `after`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.passes_pubacks = threading.Event()
        self.swallowed = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for open_socket in (self._listener, *self._sockets):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for one, other, looks in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(one, other, looks), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, looks: bool) -> None:
        with suppress(OSError):
            while data := one.recv(4096):
                # A PUBACK is the one packet from a broker to who only publishes that begins with 4.
                if looks and data[0] >> 4 == 4 and not self.passes_pubacks.is_set():
                    self.swallowed.set()
                    continue
                other.sendall(data)


@pytest.fixture
def swallowing(broker: Mosquitto) -> Iterator[Swallowing]:
    proxy = Swallowing(broker.port)
    yield proxy
    proxy.close()


def test_a_notice_that_was_not_acknowledged_is_sent_again_with_the_same_id(
    hub: Hub, swallowing: Swallowing, kitchen: Subscriber
) -> None:
    publisher = MqttPublisher(settings_for(f"mqtt://127.0.0.1:{swallowing.port}", acknowledge_seconds=0.3))
    notifier = notifier_of(hub, publisher)
    hub.publish("kitchen")
    assert notifier.notify_due() == 1
    assert swallowing.swallowed.is_set()
    assert (hub.only().status, hub.only().attempts) == (NoticeStatus.PENDING, 1)
    assert "did not acknowledge within 0.3 s" in str(hub.only().reason)
    swallowing.passes_pubacks.set()
    hub.clock.forward(minutes=1)
    assert notifier.notify_due() == 1
    publisher.close()
    assert hub.only().status is NoticeStatus.SENT
    first, second = kitchen.hears(2)
    assert first["event_id"] == second["event_id"] == hub.only().event_id


def test_a_broker_that_dies_between_a_notice_and_its_acknowledgement_is_sent_it_again(
    hub: Hub, broker: Mosquitto, swallowing: Swallowing
) -> None:
    publisher = MqttPublisher(settings_for(f"mqtt://127.0.0.1:{swallowing.port}", acknowledge_seconds=30.0))
    notifier = notifier_of(hub, publisher)
    hub.publish("kitchen")
    telling = threading.Thread(target=notifier.notify_due)
    telling.start()
    assert swallowing.swallowed.wait(30)
    broker.kill()
    swallowing.close()
    telling.join(30)
    assert not telling.is_alive()
    assert hub.only().status is NoticeStatus.PENDING
    publisher.close()
    broker.start()
    node = Subscriber(broker.port, "jarvis/nodes/kitchen/adapters")
    node.start()
    again = MqttPublisher(settings_for(broker.url))
    hub.clock.forward(minutes=1)
    assert notifier_of(hub, again).notify_due() == 1
    again.close()
    assert node.hears(1)[0]["event_id"] == hub.only().event_id
    node.stop()


def test_a_broker_that_hangs_is_given_up_in_time(hub: Hub, broker: Mosquitto) -> None:
    publisher = MqttPublisher(settings_for(broker.url, acknowledge_seconds=0.3))
    publisher.publish("somewhere", b"{}", expires_in=SOON)
    broker.freeze()
    with pytest.raises(BrokerAwayError, match=r"did not acknowledge within 0\.3 s"):
        publisher.publish("somewhere", b"{}", expires_in=SOON)
    with pytest.raises(BrokerAwayError, match=r"did not let us in within 0\.3 s"):
        publisher.publish("somewhere", b"{}", expires_in=SOON)
    publisher.close()


def test_a_stop_does_not_wait_for_a_broker_that_hangs(hub: Hub, broker: Mosquitto) -> None:
    broker.freeze()
    hub.publish("kitchen")
    notifier = notifier_of(hub, MqttPublisher(settings_for(broker.url, acknowledge_seconds=300.0)))
    notifier.start()
    with socket.create_connection(("127.0.0.1", broker.port)):  # for as long as connecting takes
        assert notifier.stop(30)
    assert (hub.only().status, hub.only().attempts) == (NoticeStatus.PENDING, 0)


def test_a_stop_may_come_while_the_connection_starts_its_thread(
    hub: Hub, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, is_joined = threading.Event(), threading.Event()

    class SlowToStart(threading.Thread):
        def start(self) -> None:
            begins.set()
            is_joined.wait(0.5)  # nobody does, before it has started
            super().start()

        def join(self, timeout: float | None = None) -> None:
            is_joined.set()
            super().join(timeout)

    notifier = notifier_of(hub, MqttPublisher(settings_for(broker.url)))
    notifier.start()
    monkeypatch.setattr("paho.mqtt.client.threading.Thread", SlowToStart)
    hub.publish("kitchen")
    notifier.wake()
    assert begins.wait(30)
    assert notifier.stop(30)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that lets `service` publish to nodes but the cellar's, with a password."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "passwords").write_text(password_line("service", PASSWORD) + password_line("kitchen", "k"))
    (folder / "rights").write_text(
        "user service\ntopic readwrite jarvis/nodes/#\ntopic deny jarvis/nodes/cellar/#\nuser kitchen\n"
        "topic read jarvis/nodes/kitchen/#\n"
    )
    for name in ("passwords", "rights"):
        (folder / name).chmod(0o600)
    broker = Mosquitto(folder, (f"password_file {folder}/passwords", f"acl_file {folder}/rights"))
    broker.start()
    yield broker
    broker.stop()


def test_with_its_password_the_service_may_publish(hub: Hub, closed: Mosquitto) -> None:
    settings = settings_for("${BROKER}", username="service", password=WORD)
    publisher = MqttPublisher(settings, {"BROKER": closed.url, "WORD": PASSWORD})
    node = Subscriber(closed.port, "jarvis/nodes/kitchen/adapters", login=("kitchen", "k"))
    node.start()
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    publisher.close()
    node.hears(1)
    node.stop()


def test_with_another_password_notices_wait_and_the_reason_does_not_say_it(
    hub: Hub, closed: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = settings_for(closed.url, username="service", password=WORD)
    publisher = MqttPublisher(settings, {"WORD": f"not-{PASSWORD}"})
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    publisher.close()
    assert hub.only().status is NoticeStatus.PENDING
    assert "does not let us in: Not authorized; check mqtt.username" in str(hub.only().reason)
    assert PASSWORD not in str(hub.only()) + caplog.text + repr(settings)


def test_a_variable_that_is_not_set_is_named_and_notices_wait(hub: Hub) -> None:
    publisher = MqttPublisher(settings_for("mqtt://127.0.0.1:1", username="service", password=WORD), {})
    with pytest.raises(SettingsError, match="WORD, which is not set"):
        publisher.publish("somewhere", b"{}", expires_in=SOON)
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    assert hub.only().status is NoticeStatus.PENDING


def test_a_topic_that_is_refused_holds_up_no_other(hub: Hub, closed: Mosquitto) -> None:
    publisher = MqttPublisher(settings_for(closed.url, username="service", password=WORD), {"WORD": PASSWORD})
    with pytest.raises(NoticeError, match="refuses it on 'jarvis/nodes/cellar/adapters': Not authorized") as refused:
        publisher.publish("jarvis/nodes/cellar/adapters", b"{}", expires_in=SOON)
    assert not isinstance(refused.value, BrokerAwayError)
    publisher.publish("jarvis/nodes/kitchen/adapters", b"{}", expires_in=SOON)
    publisher.close()


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[tuple[Mosquitto, Path]]:
    """A broker with TLS, and the certificate to know it by."""
    folder = tmp_path / "certified"
    folder.mkdir()
    certificate = write_certificate(folder)
    settings = (f"certfile {certificate}", f"keyfile {folder}/key.pem")
    broker = Mosquitto(folder, settings, scheme="mqtts")
    broker.start()
    yield broker, certificate
    broker.stop()


def write_certificate(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "certificate.pem"


def test_over_tls_a_broker_is_known_by_its_certificate(hub: Hub, certified: tuple[Mosquitto, Path]) -> None:
    broker, certificate = certified
    publisher = MqttPublisher(settings_for(broker.url, ca_file=str(certificate)))
    node = Subscriber(broker.port, "jarvis/nodes/kitchen/adapters", ca_file=str(certificate))
    node.start()
    hub.publish("kitchen")
    notifier_of(hub, publisher).notify_due()
    publisher.close()
    node.hears(1)
    node.stop()


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ca_file", [None, "/nowhere/certificates.pem"])
def test_a_broker_whose_certificate_nobody_knows_is_told_nothing(
    certified: tuple[Mosquitto, Path], ca_file: str | None
) -> None:
    expect_no_trust(MqttPublisher(settings_for(certified[0].url, ca_file=ca_file)))
    gc.collect()


def expect_no_trust(publisher: MqttPublisher) -> None:
    with pytest.raises(BrokerAwayError, match=r"CERTIFICATE_VERIFY_FAILED|cannot be used"):
        publisher.publish("somewhere", b"{}", expires_in=SOON)
    publisher.close()


def test_after_its_close_nothing_is_published(publisher: MqttPublisher) -> None:
    publisher.close()
    with pytest.raises(BrokerAwayError, match="the service stops"):
        publisher.publish("somewhere", b"{}", expires_in=SOON)


def test_neither_password_nor_url_reaches_a_log(
    hub: Hub, closed: Mosquitto, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    publisher = MqttPublisher(settings_for(closed.url, username="service", password=WORD), {"WORD": PASSWORD})
    for node in ("kitchen", "cellar"):
        hub.publish(node)
    notifier_of(hub, publisher).notify_due()
    publisher.close()
    said = caplog.text + "".join(capfd.readouterr())
    assert "told adapter_ready" in said
    assert SIGNED not in said
    assert PASSWORD not in said
