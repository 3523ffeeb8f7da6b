"""Messages to a broker over MQTT 5, each taken once the broker has said so (QoS 1).

paho keeps what is under way in memory alone and would send it again behind our back. So a connection with which
anything went wrong is given up with all that it held, and the next message opens another: what was not acknowledged
was not sent, and whoever asked for it asks again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from math import ceil
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from adapter_service.errors import BrokerAwayError, NoticeError
from adapter_service.settings import validate_section
from adapter_service.settings.command_sections import MqttSettings
from adapter_service.settings.sources import with_values

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_SECONDS = 60
_LONGEST_EXPIRY_SECONDS = 2**32 - 1


class Publisher(Protocol):
    """Where notices go out to nodes."""

    def publish(self, topic: str, payload: bytes, *, expires_in: timedelta) -> None:
        """Send, and wait until it was taken; nobody wants it any more after `expires_in`.

        Raises:
            NoticeError: this one was not taken.
            BrokerAwayError: none is taken at the moment.
        """


class MemoryPublisher(Publisher):
    """Takes everything, and keeps it; for tests."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes, timedelta]] = []

    def publish(self, topic: str, payload: bytes, *, expires_in: timedelta) -> None:
        self.taken.append((topic, payload, expires_in))


class MqttPublisher(Publisher):
    """One connection to the configured broker, opened by the first message and kept.

    A variable that is not set raises SettingsError when it is needed.
    """

    def __init__(self, settings: MqttSettings, environ: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._connection: _Connection | None = None
        self._lock = Lock()
        self._closed = False

    def publish(self, topic: str, payload: bytes, *, expires_in: timedelta) -> None:
        connection = self._connected()
        try:
            connection.publish(topic, payload, expires_in, retain=self._settings.retain)
        except BrokerAwayError:
            self._give_up(connection)
            raise

    def close(self) -> None:
        """For good; a message that waits for its acknowledgement was not taken."""
        with self._lock:
            self._closed = True
            connection = self._connection
        if connection is not None:
            self._give_up(connection)

    def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.is_alive:
            return self._connection
        if self._connection is not None:
            self._give_up(self._connection)
        connection = _Connection(self._settings, self._environ)
        with self._lock:
            if self._closed:
                raise BrokerAwayError("the service stops; it is sent after the next start")
            self._connection = connection
        try:
            connection.open()
        except BrokerAwayError:
            self._give_up(connection)
            raise
        return connection

    def _give_up(self, connection: _Connection) -> None:
        connection.close()
        with self._lock:
            if self._connection is connection:
                self._connection = None


class _Event(NamedTuple):
    """`mid` is the message that was answered, or None where the connection began or ended."""

    mid: int | None
    code: ReasonCode | None


class _Connection:
    """From CONNECT to the first fault; all that happens to it comes through one queue."""

    def __init__(self, settings: MqttSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._wait_seconds = settings.acknowledge_seconds
        # As it is written: what came out of ${VAR} is not shown.
        self._shown = f"the broker {settings.broker_url}"
        self._events: SimpleQueue[_Event] = SimpleQueue()
        # paho has its thread a moment before that runs, and whoever closes meanwhile could not wait for it.
        self._starting = Lock()
        self._host, self._port, self._client = self._made(_resolved(settings, environ))

    @property
    def is_alive(self) -> bool:
        return self._client.is_connected()

    def open(self) -> None:
        try:
            self._client.connect(self._host, self._port, keepalive=_KEEPALIVE_SECONDS, clean_start=True)
        except (OSError, ValueError) as error:
            raise BrokerAwayError(
                f"{self._shown} cannot be reached ({error}); check mqtt.broker_url, and that it runs"
            ) from error
        with self._starting:
            self._client.loop_start()
        event = self._next(monotonic() + self._wait_seconds, "let us in")
        if event.code is not None and event.code.is_failure:
            raise BrokerAwayError(
                f"{self._shown} does not let us in: {event.code}; check mqtt.username and mqtt.password"
            )
        if not self.is_alive:
            raise self._lost(event)

    def publish(self, topic: str, payload: bytes, expires_in: timedelta, *, retain: bool) -> None:
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = min(max(1, ceil(expires_in.total_seconds())), _LONGEST_EXPIRY_SECONDS)
        properties.ContentType = "application/json"
        sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerAwayError(f"{self._shown} is gone ({sent.rc.name}); it is tried again")
        deadline = monotonic() + self._wait_seconds
        while (event := self._next(deadline, "acknowledge")).mid != sent.mid:
            if event.mid is None:
                raise self._lost(event)
        if event.code is not None and event.code.is_failure:
            raise NoticeError(
                f"{self._shown} refuses it on {topic!r}: {event.code}; allow this service to publish there"
            )

    def close(self) -> None:
        self._client.disconnect()
        # paho looks twice for its thread, which may have ended in between.
        with self._starting, suppress(AttributeError):
            self._client.loop_stop()
        self._events.put(_Event(None, None))  # for a thread that still waits for an acknowledgement

    def _made(self, settings: MqttSettings) -> tuple[str, int, Client]:
        parts = urlsplit(settings.broker_url or "")
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5, reconnect_on_failure=False)
        client.connect_timeout = self._wait_seconds
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.password)
        if parts.scheme == "mqtts":
            try:
                client.tls_set(ca_certs=settings.ca_file)
            except OSError as error:
                raise BrokerAwayError(
                    f"mqtt.ca_file {self._settings.ca_file!r} cannot be used ({error}); give a file of certificates"
                ) from error
        client.on_connect = lambda _client, _data, _flags, code, _properties: self._events.put(_Event(None, code))
        client.on_publish = lambda _client, _data, mid, code, _properties: self._events.put(_Event(mid, code))
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._events.put(_Event(None, code))
        return parts.hostname or "", parts.port or _PORTS[parts.scheme], client

    def _next(self, deadline: float, what: str) -> _Event:
        with suppress(Empty):
            return self._events.get(timeout=max(0.0, deadline - monotonic()))
        raise BrokerAwayError(
            f"{self._shown} did not {what} within {self._wait_seconds:g} s; check that it is well, or raise "
            "mqtt.acknowledge_seconds"
        )

    def _lost(self, event: _Event) -> BrokerAwayError:
        reason = event.code if event.code is not None else "we closed it"
        return BrokerAwayError(f"the connection to {self._shown} ended ({reason}); it is sent again over another")


def _resolved(settings: MqttSettings, environ: Mapping[str, str]) -> MqttSettings:
    """`settings` with the values of their variables."""
    described = settings.model_dump(exclude_none=True)
    texts = {key: value for key, value in described.items() if isinstance(value, str)}
    given = with_values(texts, environ, whose="mqtt")
    password = given.pop("password", None)
    checked = validate_section(MqttSettings, given, where="mqtt, with the values of its variables")
    # Only now: as a value it is no variable any more.
    return checked.model_copy(update={"password": password})
