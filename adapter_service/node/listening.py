"""A node's session with its broker, which keeps what comes while the node is away (MQTT 5, QoS 1).

A notice is acknowledged once it is done with, for good: one that a node died over, or could not fetch yet, comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from adapter_service.errors import AdapterServiceError, InvalidParameterError, SettingsError
from adapter_service.node.notice import ReadyNotice, read_notice
from adapter_service.node.taking import Outcome, Taker, Tell

SESSION_SECONDS = 30 * 24 * 3600
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
# How often a service that did not answer is told again.
_LOOK_SECONDS = 30.0
_QOS = 1


@dataclass(frozen=True, slots=True)
class Broker:
    """Where notices come from; its address is `mqtt://host:1883`, or `mqtts://host:8883` with TLS."""

    url: str
    topic: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None


@dataclass(slots=True)
class _Pending:
    notice: ReadyNotice
    acknowledge: Callable[[], None]
    attempts: int = 0
    due_at: float = 0.0


class Listener:
    """Takes the notices of one node, the newest first."""

    def __init__(self, node_id: str, broker: Broker, taker: Taker, tell: Tell) -> None:
        self._node_id = node_id
        self._broker = broker
        self._taker = taker
        self._tell = tell
        self._arrived: SimpleQueue[_Pending] = SimpleQueue()
        self._pending: list[_Pending] = []
        self._sessions = 0

    def listen(self, *, once: bool = False) -> Outcome | None:
        """Until the process ends; with `once`, until a notice is done with: what became of it.

        Raises:
            SettingsError: what is given makes no broker.
        """
        client = self._connected()
        try:
            while True:
                has_told = self._taker.acknowledge()
                self._wait(_LOOK_SECONDS if has_told and not self._pending else self._until_due())
                pending = self._next()
                if pending is None:
                    continue
                outcome = self._attempt(pending)
                if once and outcome is not None:
                    self._taker.acknowledge()
                    return outcome
        finally:
            client.disconnect()
            with suppress(AttributeError):  # paho looks twice for its thread, which may have ended in between
                client.loop_stop()

    def _attempt(self, pending: _Pending) -> Outcome | None:
        """What became of it; None where it is to be tried again."""
        notice = pending.notice
        try:
            outcome = self._taker.take(notice)
        except (AdapterServiceError, OSError) as error:
            pending.attempts += 1
            wait = min(_FIRST_WAIT_SECONDS * 2.0 ** (pending.attempts - 1), _LONGEST_WAIT_SECONDS)
            pending.due_at = monotonic() + wait
            self._pending.append(pending)
            self._tell("waiting", event_id=notice.event_id, seconds=wait, reason=str(error))
            return None
        if outcome in {Outcome.DUPLICATE, Outcome.OLDER}:
            self._tell(outcome, event_id=notice.event_id, job_id=notice.job_id)
        pending.acknowledge()
        return outcome

    def _wait(self, seconds: float) -> None:
        """Until a notice comes, at most; all that came are pending then."""
        try:
            self._pending.append(self._arrived.get(timeout=seconds))
            while True:
                self._pending.append(self._arrived.get_nowait())
        except Empty:
            return

    def _until_due(self) -> float:
        first = min((pending.due_at for pending in self._pending), default=monotonic() + _LOOK_SECONDS)
        return min(_LOOK_SECONDS, max(0.0, first - monotonic()))

    def _next(self) -> _Pending | None:
        """The newest that is due: those before it are older ones then."""
        due = [pending for pending in self._pending if pending.due_at <= monotonic()]
        if not due:
            return None
        newest = max(due, key=lambda pending: pending.notice.created_at)
        self._pending.remove(newest)
        return newest

    def _connected(self) -> Client:
        parts = urlsplit(self._broker.url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise SettingsError(f"--broker is {self._broker.url!r}; write mqtt://127.0.0.1:1883, or mqtts://… with TLS")
        # The same name at each start: by it the broker finds the session.
        client = Client(CallbackAPIVersion.VERSION2, f"adapter-node-{self._node_id}", protocol=MQTTv5, manual_ack=True)
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if parts.scheme == "mqtts":
            client.tls_set(ca_certs=str(self._broker.ca_file) if self._broker.ca_file else None)
        client.reconnect_delay_set(min_delay=1, max_delay=60)
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda _client, _data: self._tell("disconnected", reason="the broker does not answer")
        client.on_subscribe = lambda _client, _data, _mid, codes, _properties: self._on_subscribe(codes)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._tell(
            "disconnected", reason=str(code)
        )
        client.on_message = self._on_message
        session: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = SESSION_SECONDS
        client.connect_async(
            parts.hostname, parts.port or _PORTS[parts.scheme], keepalive=60, clean_start=False, properties=session
        )
        client.loop_start()
        return client

    def _on_connect(
        self, client: Client, _data: object, flags: ConnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        # What came before belongs to a connection that is gone: it comes again, and is acknowledged then.
        self._sessions += 1
        if code.is_failure:
            self._tell("refused_by_broker", reason=str(code))
            return
        self._tell("connected", broker=self._broker.url, session_present=flags.session_present)
        client.subscribe(self._broker.topic, qos=_QOS)

    def _on_subscribe(self, codes: list[ReasonCode]) -> None:
        for code in codes:
            if code.is_failure:
                self._tell("refused_by_broker", topic=self._broker.topic, reason=str(code))
            else:
                self._tell("listening", topic=self._broker.topic)

    def _on_message(self, client: Client, _data: object, message: MQTTMessage) -> None:
        session = self._sessions

        def acknowledge() -> None:
            if session == self._sessions:
                client.ack(message.mid, message.qos)

        try:
            notice = read_notice(bytes(message.payload), self._node_id)
        except InvalidParameterError as error:
            self._tell("ignored", reason=str(error))
            acknowledge()  # it would never be another
            return
        self._tell("notice", event_id=notice.event_id, job_id=notice.job_id, dataset_hash=notice.dataset_hash)
        self._arrived.put(_Pending(notice, acknowledge))
