"""A node's session with a broker, as another client keeps it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.waiting import eventually


class Subscriber:
    """Listens to a topic from `start` to `stop`, in one session over all of them; `heard` is what came."""

    def __init__(self, port: int, topic: str, *, login: tuple[str, str] | None = None, ca_file: str | None = None):
        self.heard: list[dict[str, Any]] = []
        self.properties: list[Any] = []
        self.retained: list[bool] = []
        self._port, self._topic, self._login, self._ca_file = port, topic, login, ca_file
        self._client: Client | None = None

    def start(self) -> None:
        client = Client(CallbackAPIVersion.VERSION2, "the-subscriber", protocol=MQTTv5)
        if self._login is not None:
            client.username_pw_set(*self._login)
        if self._ca_file is not None:
            client.tls_set_context(ssl.create_default_context(cafile=self._ca_file))
        listening = threading.Event()
        client.on_connect = lambda *_: client.subscribe(self._topic, qos=1) and None
        client.on_subscribe = lambda *_: listening.set()
        client.on_message = lambda _client, _data, message: self._hear(message)
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        client.connect("localhost", self._port, clean_start=False, properties=properties)
        client.loop_start()
        assert listening.wait(30)
        self._client = client

    def stop(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def hears(self, count: int, of: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[dict[str, Any]]:
        """The first `count` that are `of` it."""
        eventually(lambda: len(list(filter(of, self.heard))) >= count, f"{count} notices", seconds=30)
        return list(filter(of, self.heard))

    def _hear(self, message: Any) -> None:
        self.properties.append(message.properties)
        self.retained.append(message.retain)
        self.heard.append(json.loads(message.payload))
