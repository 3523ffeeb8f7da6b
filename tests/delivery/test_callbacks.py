"""Who asked for a job is called back when it has ended: signed, again until they answer, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from adapter_service.api.errors import without_paths
from adapter_service.delivery.callbacks import Callbacks, check_callback_url, signature
from adapter_service.delivery.notifier import Notifier
from adapter_service.delivery.outbox import NoticeKind, NoticeStatus
from adapter_service.errors import ForbiddenError, InvalidParameterError
from adapter_service.jobs.job import JobStatus
from tests.delivery.hub import SIGNED, Hub
from tests.loopback import Quiet, started

CALLBACK = NoticeKind.CALLBACK
SECRET = "canary-of-the-hub"  # noqa: S105 - of a hub that ends with its test


@dataclass
class Called:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


@dataclass
class HomeHub:
    """Answers with `statuses` one after another, then with 204."""

    calls: list[Called] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    url: str = ""


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: HomeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.state.calls.append(Called({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.state.statuses.pop(0) if self.state.statuses else 204)
        self.send_header("content-length", "0")
        self.send_header("location", f"{self.state.url}/elsewhere")
        self.end_headers()


@pytest.fixture
def home() -> Iterator[HomeHub]:
    home = HomeHub()
    httpd, home.url = started(_Handler, home)
    yield home
    httpd.shutdown()
    httpd.server_close()


def notifier_of(hub: Hub, home: HomeHub, *allowed: str) -> Notifier:
    callbacks = Callbacks(
        hub.database,
        hub.deliveries,
        hub.artifacts,
        allowed=allowed or (f"{home.url}/callbacks/",),
        without_paths=without_paths,
        now=hub.clock,
        timeout_seconds=5,
    )
    return Notifier(hub.outbox, {CALLBACK: callbacks}, first_wait_seconds=1, longest_wait_seconds=300, now=hub.clock)


def callback_to(home: HomeHub, path: str = "/callbacks/done", **more: str) -> dict[str, str]:
    return {"url": f"{home.url}{path}", "token": SECRET} | more


def test_who_asked_is_told_where_the_adapter_is(hub: Hub, home: HomeHub) -> None:
    published = hub.publish(callback=callback_to(home), request={"external_id": "hub-7"})
    assert notifier_of(hub, home).notify_due() == 1
    (call,) = home.calls
    assert call.json == {
        "job_id": "hub-7",
        "job_type": "adapter_train",
        "finished_at": hub.clock.now.isoformat(),
        "status": "succeeded",
        "result": {
            "artifact_url": hub.artifacts.url(str(published.object_key), node_id="kitchen", expires_at=hub.clock.now),
            "artifact_metadata": {
                "node_id": "kitchen",
                "base_model_id": "small",
                "dataset_hash": published.dataset_hash,
                "adapter_format": "peft_lora",
                "artifact_size_bytes": 7,
                "sha256": "0" * 64,
                "train_duration_seconds": 600.0,
                "cached": False,
            },
        },
        "error": None,
        "timing": {"processing_ms": 600_000},
    }
    assert hub.only(CALLBACK).status is NoticeStatus.SENT


def test_a_call_is_signed_as_standard_webhooks_has_it(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback=callback_to(home))
    notifier_of(hub, home).notify_due()
    (call,) = home.calls
    headers = call.headers
    assert headers["webhook-id"] == hub.only(CALLBACK).event_id
    assert int(headers["webhook-timestamp"]) == hub.clock.now.timestamp()
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + call.body
    mac = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    assert headers["content-type"] == "application/json"


def test_the_signature_is_that_of_the_specifications_example() -> None:
    """https://github.com/standard-webhooks/standard-webhooks has it for all its libraries."""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_token_it_is_signed_with_what_the_key_that_asked_is_known_by(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback={"url": f"{home.url}/callbacks/", "secret": "ab" * 32})
    notifier_of(hub, home).notify_due()
    (call,) = home.calls
    timestamp = int(call.headers["webhook-timestamp"])
    assert call.headers["webhook-signature"] == signature("ab" * 32, call.headers["webhook-id"], timestamp, call.body)


def test_without_any_secret_nobody_is_called(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback={"url": f"{home.url}/callbacks/"})
    notifier_of(hub, home).notify_due()
    assert home.calls == []
    assert "no secret" in str(hub.only(CALLBACK).reason)


@pytest.mark.parametrize(("auth_type", "sent"), [("bearer", f"Bearer {SECRET}"), ("none", None)])
def test_a_hub_that_wants_its_token_gets_it(hub: Hub, home: HomeHub, auth_type: str, sent: str | None) -> None:
    hub.publish(callback=callback_to(home, auth_type=auth_type))
    notifier_of(hub, home).notify_due()
    assert home.calls[0].headers.get("authorization") == sent


def test_a_token_that_fits_no_header_stays_out_of_it(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback=callback_to(home, auth_type="bearer", token="a\r\nb: ключ"))  # noqa: S106
    notifier_of(hub, home).notify_due()
    assert "authorization" not in home.calls[0].headers


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ({"status": JobStatus.FAILED, "error_code": "interrupted", "error_message": "it broke"}, "interrupted", "it b"),
        ({"status": JobStatus.CANCELLED}, "canceled", "cancelled"),
        ({"result": {"version_status": "rejected", "gate": {"reasons": ["70 % of 80 %."]}}}, "gate_rejected", "70 %"),
        ({"result": {"version_status": "live", "gate": {"reasons": []}}}, "canceled", "there already"),
        ({"status": JobStatus.FAILED, "error_code": "x", "error_message": "no /srv/state/a.db"}, "x", "no a.db"),
    ],
)
def test_a_job_without_an_adapter_has_failed(
    hub: Hub, home: HomeHub, job: dict[str, Any], code: str, words: str
) -> None:
    hub.queue_callback(hub.job(callback=callback_to(home), **job))
    notifier_of(hub, home).notify_due()
    told = home.calls[0].json
    assert (told["status"], told["result"], told["error"]["code"]) == ("failed", None, code)
    assert words in told["error"]["message"]


def test_an_adapter_that_could_not_be_published_has_failed(hub: Hub, home: HomeHub) -> None:
    published = hub.publish(callback=callback_to(home))
    hub.deliveries.failed(published, "given up after 12 attempts: no such bucket")
    assert notifier_of(hub, home).notify_due() == 2
    told = home.calls[-1].json
    assert told["error"] == {"code": "upload_failed", "message": "given up after 12 attempts: no such bucket"}


def test_what_was_published_again_was_not_trained_again(hub: Hub, home: HomeHub) -> None:
    job_id = hub.publish(callback=callback_to(home)).job_id
    hub.queue_callback(job_id)
    notifier_of(hub, home).notify_due()
    cached = [call.json["result"]["artifact_metadata"]["cached"] for call in home.calls]
    assert cached == [False, True]


def test_of_an_adapter_that_its_node_has_there_is_no_url_and_it_has_succeeded(hub: Hub, home: HomeHub) -> None:
    hub.deliveries.acknowledge(hub.publish(callback=callback_to(home)).job_id)
    notifier_of(hub, home).notify_due()
    told = home.calls[0].json
    assert (told["status"], told["result"]["artifact_url"]) == ("succeeded", None)


def test_a_hub_that_fails_is_called_again_with_the_same_id_and_a_new_time(hub: Hub, home: HomeHub) -> None:
    home.statuses = [500, 503, 302]
    hub.publish(callback=callback_to(home))
    notifier = notifier_of(hub, home)
    for _ in range(4):
        assert notifier.notify_due() == 1
        assert notifier.notify_due() == 0
        hub.clock.forward(minutes=1)
    assert hub.only(CALLBACK).status is NoticeStatus.SENT
    assert len({call.headers["webhook-id"] for call in home.calls}) == 1
    assert len({call.headers["webhook-signature"] for call in home.calls}) == 4


def test_a_hub_that_says_it_is_gone_is_not_called_again(hub: Hub, home: HomeHub) -> None:
    home.statuses = [410]
    hub.publish(callback=callback_to(home))
    notifier_of(hub, home).notify_due()
    assert hub.only(CALLBACK).status is NoticeStatus.DROPPED
    assert "410" in str(hub.only(CALLBACK).reason)


def test_after_three_days_it_is_given_up_with_the_reason(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback=callback_to(home))
    home.statuses = [500] * 2000
    notifier, began = notifier_of(hub, home), hub.clock.now
    while hub.only(CALLBACK).status is NoticeStatus.PENDING:
        notifier.notify_due()
        hub.clock.now = max(hub.clock.now + timedelta(hours=7), hub.only(CALLBACK).next_attempt_at)
    assert timedelta(days=2) < hub.clock.now - began < timedelta(days=4)
    assert "given up after" in str(hub.only(CALLBACK).reason)
    assert "answered 500" in str(hub.only(CALLBACK).reason)


def test_one_hub_that_does_not_answer_holds_up_no_other(hub: Hub, home: HomeHub) -> None:
    hub.publish("kitchen", callback={"url": "http://127.0.0.1:1/callbacks/", "token": SECRET})
    hub.publish("kitchen", callback=callback_to(home))
    notifier_of(hub, home, home.url, "http://127.0.0.1:1/").notify_due()
    assert [notice.status for notice in hub.notices(CALLBACK)] == [NoticeStatus.PENDING, NoticeStatus.SENT]


def test_what_is_not_listed_any_more_is_not_called(hub: Hub, home: HomeHub) -> None:
    hub.publish(callback=callback_to(home))
    notifier_of(hub, home, "https://hub.example.org/").notify_due()
    assert home.calls == []
    assert "not on the allow-list any more" in str(hub.only(CALLBACK).reason)


LISTED = ("https://hub.example.org/callbacks/", "http://10.0.0.7:8080")


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example.org/callbacks",
        "https://HUB.example.org/callbacks/a/b?job=1",
        "http://10.0.0.7:8080/anything",
    ],
)
def test_a_listed_address_may_be_called(url: str) -> None:
    check_callback_url(url, LISTED)


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example.org/",
        "https://hub.example.org/callbacksx",
        "https://hub.example.org/callbacks/../admin",
        "https://hub.example.org/callbacks/%2e%2e/admin",
        "https://hub.example.org/callbacks/..%2fadmin",
        "https://hub.example.org/callbacks\\..\\admin",
        "https://hub.example.org.evil.example/callbacks/",
        "https://evil.example/https://hub.example.org/callbacks/",
        "https://hub.example.org@evil.example/callbacks/",
        "https://user:word@hub.example.org/callbacks/",
        "http://hub.example.org/callbacks/",
        "http://10.0.0.7/anything",
        "http://10.0.0.7:8081/anything",
        "http://10.0.0.7:8080\t.evil.example/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(ForbiddenError, match="allow-list"):
        check_callback_url(url, LISTED)


@pytest.mark.parametrize("url", ["", "hub", "ftp://hub.example.org/callbacks/", "file:///etc/passwd", "//x/y"])
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameterError, match="no address"):
        check_callback_url(url, LISTED)


def test_with_an_empty_list_nobody_may_be_called() -> None:
    with pytest.raises(ForbiddenError, match="0 beginnings"):
        check_callback_url("https://hub.example.org/", ())


def test_neither_secret_nor_url_nor_what_an_address_asks_reaches_a_log(
    hub: Hub, home: HomeHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in ("/callbacks/?key=canary-in-the-query", "/elsewhere?key=canary-in-the-query"):
        hub.publish(callback=callback_to(home, path, auth_type="bearer"))
    hub.publish(callback={"url": "http://127.0.0.1:1/?key=canary-in-the-query", "token": SECRET})
    home.statuses = [500]
    notifier = notifier_of(hub, home, f"{home.url}/callbacks", "http://127.0.0.1:1/")
    for _ in range(2):
        notifier.notify_due()
        hub.clock.forward(minutes=1)
    said = caplog.text + str([dict(row) for row in hub.database.read("SELECT * FROM outbox")])
    assert "came to nothing" in said
    for canary in (SECRET, SIGNED, "canary-in-the-query"):
        assert canary not in said
