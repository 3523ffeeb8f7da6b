"""No key and no signed link comes into a log."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import requests

from adapter_service.api.access_log import veiled
from adapter_service.api.log_lines import JsonLines
from adapter_service.api.services import Services
from adapter_service.auth import KeyStore
from tests.api.listening import listening

TOKEN = "WyJraXRjaGVuIl0.aWx1c2F0.c2lnbmF0dXJl"  # noqa: S105 - nobody signed it
KEY = "ask_" + "k" * 43


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"/api/v0/artifacts/{TOKEN}/adapter.zip", "/api/v0/artifacts/…/adapter.zip"),
        (f"/api/v0/artifacts/{TOKEN}", "/api/v0/artifacts/…"),
        (f"/api/v0/artifacts/{TOKEN}?x={KEY}", "/api/v0/artifacts/…?…"),
        ("/adapter/logs/job_1?start=0", "/adapter/logs/job_1?…"),
        (f"/adapter/status/{KEY}", "/adapter/status/…"),
        ("/v1/task_force/ask_me", "/v1/task_force/ask_me"),
        ("/health", "/health"),
    ],
)
def test_a_path_is_shown_without_what_lets_in(path: str, shown: str) -> None:
    assert veiled(path) == shown


def test_no_line_of_any_logger_has_a_key_or_a_token(
    services: Services, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):  # a test before this one may have had uvicorn set it up
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
        caplog.set_level(logging.DEBUG, logger=name)
    key, secret = KeyStore(services.database).create("hub", {"app"})
    with listening(services) as address:
        for path in ("/adapter/list", f"/api/v0/artifacts/{TOKEN}/adapter.zip", f"/nothing?key={secret}", f"/{secret}"):
            for shown in (secret, KEY):
                for headers in ({"Authorization": f"Bearer {shown}"}, {"X-API-Key": shown}):
                    # urllib3 of the client logs the path that it asks for; it is no part of the service.
                    requests.get(address + path, headers=headers, timeout=30)
    lines = [
        text
        for record in caplog.records
        if not record.name.startswith("urllib3")
        for text in (record.getMessage(), JsonLines().format(record), repr(vars(record)))
    ]
    assert any("/api/v0/artifacts/…/adapter.zip" in line for line in lines)
    for hidden in (secret, secret.removeprefix("ask_"), KEY, TOKEN, key.digest):
        assert not [line for line in lines if hidden in line]


def test_uvicorns_own_logging_keeps_the_veil() -> None:
    """It sets its loggers up after the application is made, as in `adapter-service serve`."""
    script = (
        "import logging, uvicorn\n"
        "from adapter_service.api.access_log import veil_access_log\n"
        "veil_access_log(); veil_access_log()\n"
        "uvicorn.Config('none:app')\n"
        "log = logging.getLogger('uvicorn.access')\n"
        f"log.info('%s - \"%s %s HTTP/%s\" %d', '1.2.3.4:5', 'GET', '/api/v0/artifacts/{TOKEN}/a.zip', '1.1', 200)\n"
        "assert len(log.filters) == 1\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "GET /api/v0/artifacts/…/a.zip HTTP/1.1" in shown.stdout
    assert TOKEN not in shown.stdout + shown.stderr
