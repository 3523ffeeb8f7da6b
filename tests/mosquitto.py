"""A real MQTT broker for tests: mosquitto, from the PATH or else out of Debian's package, unpacked into .cache/.

Where neither can be had the tests fail and say so; MOSQUITTO=skip in the environment skips them instead.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from adapter_service.demo import mosquitto
from adapter_service.errors import RunFailedError
from tests.conftest import ROOT

_UNPACKED = ROOT / ".cache" / "mosquitto"


class Mosquitto(mosquitto.Mosquitto):
    """One broker, which keeps what it holds between runs."""

    def __init__(self, folder: Path, settings: Sequence[str] = (), *, scheme: str = "mqtt") -> None:
        super().__init__(program(), folder, settings, scheme=scheme)


def password_line(username: str, password: str) -> str:
    """A line of mosquitto's `password_file`."""
    salt, rounds = os.urandom(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"{username}:$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()


@cache
def program() -> mosquitto.Program:
    try:
        return mosquitto.find_mosquitto(_UNPACKED)
    except RunFailedError as error:
        if os.environ.get("MOSQUITTO") == "skip":
            pytest.skip(str(error))
        pytest.fail(f"{error}, or set MOSQUITTO=skip to go without")
