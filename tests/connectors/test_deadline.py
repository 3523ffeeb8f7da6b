from __future__ import annotations

import socket
from http.client import BadStatusLine

import pytest
from urllib3.response import HTTPResponse

from adapter_service.connectors import deadline


@pytest.mark.parametrize("fault", [ConnectionResetError("reset by peer"), BadStatusLine("")])
def test_whatever_comes_of_a_connection_that_was_given_up_is_a_timeout(fault: Exception) -> None:
    ours, theirs = socket.socketpair()

    def get() -> HTTPResponse:
        ours.recv(1)
        raise fault

    with ours, theirs, pytest.raises(TimeoutError, match="did not come in time"):
        deadline._in_time(get, ours, 0.01)


def test_a_fault_within_the_time_stays_what_it_is() -> None:
    ours, theirs = socket.socketpair()

    def get() -> HTTPResponse:
        raise ConnectionResetError("reset by peer")

    with ours, theirs, pytest.raises(ConnectionResetError, match="by peer"):
        deadline._in_time(get, ours, 60)
