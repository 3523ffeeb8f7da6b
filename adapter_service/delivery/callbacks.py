"""What whoever asked for a job is told when it has ended: a POST to their address, signed as Standard Webhooks has it.

`webhook-signature` is `v1,` and the HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>` in base64. Its key is the
`token` that came with the address, or else the SHA-256, in hex digits, of the API key that asked for the job.
Only addresses that the operator has listed are called, and none that those point to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import requests

from adapter_service.adapters import VersionStatus
from adapter_service.connectors.outbound import Outbound, shown
from adapter_service.connectors.raw import is_under
from adapter_service.database import Database
from adapter_service.delivery.artifact_store import ArtifactStore
from adapter_service.delivery.deliveries import Deliveries, Delivery, DeliveryStatus
from adapter_service.delivery.notices import Courier
from adapter_service.delivery.outbox import Notice
from adapter_service.errors import ForbiddenError, InvalidParameterError, NoticeError, SourceUnreachableError

TIMEOUT_SECONDS = 10.0
_GONE = 410
_KEY_IN_BASE64 = "whsec_"
# What may stand in a header.
_BEARER = re.compile(r"[\x21-\x7e]+")
_JOB_TYPE = "adapter_train"


def check_callback_url(url: str, allowed: Sequence[str]) -> None:
    """Refuse an address at which this service calls nobody; `allowed` are beginnings of those at which it does.

    Raises:
        InvalidParameterError: it is no address.
        ForbiddenError: it is not listed.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise InvalidParameterError(f"{shown_safely(url)!r} is no address; give an http:// or https:// URL")
    if not _is_listed(url, allowed):
        raise ForbiddenError(
            f"{shown_safely(url)!r} is not on the allow-list (commands.callback_urls has {len(allowed)} beginnings of "
            "addresses); leave the callback out and ask for the job's status instead, or ask the operator to add it"
        )


def _is_listed(url: str, allowed: Sequence[str]) -> bool:
    try:
        return url.isprintable() and any(is_under(url, prefix) for prefix in allowed)
    except ValueError:
        return False


def shown_safely(url: str) -> str:
    """Without what may be a secret in it."""
    try:
        return shown(url)[:200]
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2][:200]


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`; `secret` in base64 behind `whsec_`, or as it is."""
    message = b".".join((event_id.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(_key(secret), message, hashlib.sha256)).decode()}"


def _key(secret: str) -> bytes:
    if secret.startswith(_KEY_IN_BASE64):
        try:
            return base64.b64decode(secret.removeprefix(_KEY_IN_BASE64), validate=True)
        except (binascii.Error, ValueError):
            pass
    return secret.encode()


class Callbacks(Courier):
    """Posts to those who asked to be called back; `without_paths` takes this machine's out of what went wrong."""

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        artifacts: ArtifactStore,
        *,
        allowed: Sequence[str],
        without_paths: Callable[[str], str],
        timeout_seconds: float = TIMEOUT_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._artifacts = artifacts
        self._allowed = tuple(allowed)
        self._without_paths = without_paths
        self._timeout_seconds = timeout_seconds
        self._now = now

    def deliver(self, notice: Notice) -> str | None:
        job = _Job.read(self._database, notice.job_id, notice.alias)
        if job is None or not job.callback:
            return "nobody wants to be called back"
        url = str(job.callback.get("url"))
        if not _is_listed(url, self._allowed):
            return f"{shown_safely(url)} is not on the allow-list any more; see commands.callback_urls"
        secret = job.callback.get("token") or job.callback.get("secret")
        if not secret:
            return "there is no secret to sign it with; ask for the job with an API key, or give a callback.token"
        body = json.dumps(self._told(notice, job), ensure_ascii=False).encode()
        timestamp = int(self._now().timestamp())
        headers = {
            "content-type": "application/json",
            "webhook-id": notice.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, notice.event_id, timestamp, body),
        }
        token = job.callback.get("token")
        if job.callback.get("auth_type") == "bearer" and token and _BEARER.fullmatch(token):
            headers["authorization"] = f"Bearer {token}"
        return self._post(url, body, headers)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
        where = shown_safely(url)
        try:
            # Private addresses are allowed: each was listed by the operator.
            with (
                Outbound(headers={}, timeout_seconds=self._timeout_seconds, allow_private=True) as outbound,
                closing(outbound.post(url, body, headers)) as response,
            ):
                status = response.status_code
        except requests.RequestException as error:
            # Without the cause, which has the whole address in it.
            raise NoticeError(f"{where} cannot be reached ({type(error).__name__}); it is called again") from None
        except SourceUnreachableError:
            raise NoticeError(f"{where} cannot be called; it is tried again") from None
        if status == _GONE:
            return f"{where} is gone for good, it says (410)"
        if not 200 <= status < 300:
            redirected = " (redirects are not followed)" if 300 <= status < 400 else ""
            raise NoticeError(f"{where} answered {status}{redirected}, and 2xx is wanted; it is called again")
        return None

    def _told(self, notice: Notice, job: _Job) -> dict[str, Any]:
        delivery = self._deliveries.get(notice.job_id)
        fault = job.fault(delivery)
        published = delivery if fault is None else None
        return {
            "job_id": notice.alias or job.request.get("external_id") or notice.job_id,
            "job_type": _JOB_TYPE,
            "finished_at": (job.finished_at or notice.created_at).isoformat(),
            "status": "failed" if fault else "succeeded",
            "result": self._result(notice, job, published) if published else None,
            "error": {"code": fault[0], "message": self._without_paths(fault[1])} if fault else None,
            "timing": {"processing_ms": round(1000 * job.seconds)},
        }

    def _result(self, notice: Notice, job: _Job, delivery: Delivery) -> dict[str, Any]:
        is_there = delivery.status is DeliveryStatus.PUBLISHED and delivery.acknowledged_at is None
        url = None
        if is_there and delivery.object_key and delivery.expires_at and delivery.expires_at > self._now():
            url = self._artifacts.url(delivery.object_key, node_id=delivery.node_id, expires_at=delivery.expires_at)
        return {
            "artifact_url": url,
            "artifact_metadata": {
                "node_id": delivery.node_id,
                "base_model_id": delivery.base_model_id,
                "dataset_hash": delivery.dataset_hash,
                "adapter_format": "peft_lora",
                "artifact_size_bytes": delivery.size_bytes,
                "sha256": delivery.sha256,
                "train_duration_seconds": round(job.seconds, 3),
                "cached": bool(self._database.read(_EARLIER, (notice.job_id, notice.kind, notice.number))),
            },
        }


class _Job:
    """What a callback tells of a job, as its row has it: `jobs` stands above this package."""

    def __init__(self, row: Mapping[str, Any], callback: Mapping[str, Any] | None) -> None:
        self._callback = callback
        self.status = str(row["status"])
        self.request: dict[str, Any] = json.loads(row["request"])
        self.finished_at = datetime.fromisoformat(row["finished_at"]) if row["finished_at"] else None
        self._started_at = datetime.fromisoformat(row["started_at"]) if row["started_at"] else None
        self._result: dict[str, Any] = json.loads(row["result"]) if row["result"] else {}
        self._error = (row["error_code"] or "failed", row["error_message"] or "it failed; see the service's log")

    @classmethod
    def read(cls, database: Database, job_id: str, alias: str | None) -> _Job | None:
        rows = database.read(_JOB, (job_id,))
        named = database.read(_ALIAS, (alias,)) if alias is not None else []
        return cls(dict(rows[0]), json.loads(named[0]["callback"]) if named else None) if rows else None

    @property
    def callback(self) -> Mapping[str, Any]:
        callback = self._callback or self.request.get("callback")
        return callback if isinstance(callback, dict) else {}

    @property
    def seconds(self) -> float:
        """From its beginning to its end."""
        if self._started_at is None or self.finished_at is None:
            return 0.0
        return (self.finished_at - self._started_at).total_seconds()

    def fault(self, delivery: Delivery | None) -> tuple[str, str] | None:
        """Code and message of why there is no adapter; None where there is one."""
        if self.status == "cancelled":
            return "canceled", "it was cancelled"
        if self.status != "succeeded":
            return self._error
        if delivery is None:
            return self._undelivered()
        if delivery.status is DeliveryStatus.FAILED:
            return "upload_failed", delivery.reason or "it could not be published"
        if delivery.status is DeliveryStatus.WITHDRAWN:
            return "canceled", delivery.reason or "it was cancelled"
        return None

    def _undelivered(self) -> tuple[str, str]:
        if self._result.get("version_status") == VersionStatus.LIVE:
            return "canceled", "it was cancelled when its adapter was there already"
        gate = self._result.get("gate") or {}
        return "gate_rejected", " ".join(map(str, gate.get("reasons") or ["its adapter was not good enough"]))


_JOB = """
    SELECT status, request, result, error_code, error_message, started_at, finished_at
    FROM jobs WHERE id = ?"""
_ALIAS = "SELECT callback FROM job_aliases WHERE alias = ? AND callback IS NOT NULL"
_EARLIER = "SELECT 1 FROM outbox WHERE job_id = ? AND kind = ? AND number < ? LIMIT 1"
