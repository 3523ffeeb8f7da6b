"""What is said at the start of addresses that other machines may not reach."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from adapter_service.api.starting import address_notes
from adapter_service.auth import KeyStore
from adapter_service.settings import ArtifactSettings, SecuritySettings, ServingSettings, Settings
from tests.api.conftest import MakeServices, client_of

FOR_OTHERS: dict[str, Any] = {
    "serving": ServingSettings(host="0.0.0.0"),  # noqa: S104 - it is what is warned of
    "security": SecuritySettings(loopback_only=False),
}


def test_an_address_that_nodes_cannot_reach_is_a_warning_at_the_start(
    make_services: MakeServices, caplog: pytest.LogCaptureFixture
) -> None:
    services = make_services(**FOR_OTHERS)
    KeyStore(services.database).create("hub", {"app"})
    with caplog.at_level(logging.WARNING), client_of(services):
        pass
    (told,) = [record.getMessage() for record in caplog.records if "public_url" in record.getMessage()]
    assert "http://127.0.0.1:8100; set it" in told


@pytest.mark.parametrize(
    "other",
    [
        {"serving": ServingSettings(host="127.0.0.1")},
        {"security": SecuritySettings()},
        {"artifacts": ArtifactSettings(public_url="http://hub.local:8100")},
        {"artifacts": ArtifactSettings(kind="s3", bucket="adapters")},
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_set(other: dict[str, Any]) -> None:
    assert len(address_notes(Settings(**FOR_OTHERS))) == 1
    assert address_notes(Settings(**FOR_OTHERS | other)) == ()
