"""A front for a bucket that looks at signatures: what S3 does, and the test server behind it does not.

Every URL is signed anew, by botocore, with the keys that the client has; only what comes out the same, is
not too old, and was signed for no longer than S3 allows, is fetched from behind.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import parse_qsl, quote, urlsplit
from urllib.request import urlopen

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.loopback import Quiet, started

MOST_SECONDS = 604_800
_TIME = "%Y%m%dT%H%M%SZ"


class PresignedBucket:
    """Listens on loopback; `now` is its clock, and `keys` are who may."""

    def __init__(self, behind: str, access_key: str, secret_key: str) -> None:
        self.behind = behind
        self.keys = Credentials(access_key, secret_key)
        self.now: Callable[[], datetime] = _now
        self.refusals: list[str] = []
        self._httpd: ThreadingHTTPServer
        self.url: str

    def __enter__(self) -> Self:
        self._httpd, self.url = started(_Handler, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()

    def fault_of(self, method: str, host: str, target: str) -> str | None:
        """Why S3 would not answer; None if it would."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        given = query.pop("X-Amz-Signature", "")
        if query.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
            return "AuthorizationQueryParametersError"
        if not 1 <= int(query["X-Amz-Expires"]) <= MOST_SECONDS:
            return "AuthorizationQueryParametersError"
        signed_at = datetime.strptime(query["X-Amz-Date"], _TIME).replace(tzinfo=UTC)
        access_key, _, region, service, _ = query["X-Amz-Credential"].split("/")
        if access_key != self.keys.access_key:
            return "InvalidAccessKeyId"
        if not hmac.compare_digest(given, self._signature(method, host, parts.path, query, region, service)):
            return "SignatureDoesNotMatch"
        if self.now() >= signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
            return "AccessDenied"
        return None

    def _signature(self, method: str, host: str, path: str, query: dict[str, str], region: str, service: str) -> str:
        auth = S3SigV4QueryAuth(self.keys, service, region)
        text = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query.items())
        request = AWSRequest(method=method, url=f"http://{host}{path}?{text}")
        request.context["timestamp"] = query["X-Amz-Date"]
        canonical = auth.canonical_request(request)
        signature: str = auth.signature(auth.string_to_sign(request, canonical), request)
        return signature


def _now() -> datetime:
    return datetime.now(UTC)


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: PresignedBucket

    def do_GET(self) -> None:
        fault = self.state.fault_of("GET", self.headers["Host"], self.path)
        if fault is not None:
            self.state.refusals.append(fault)
            self._answer(403, {}, fault.encode())
            return
        try:
            with urlopen(self.state.behind + self.path) as answer:
                self._answer(answer.status, answer.headers, answer.read())
        except HTTPError as error:
            with error:
                self._answer(error.code, {}, error.read())

    def _answer(self, status: int, headers: Any, content: bytes) -> None:
        self.send_response(status)
        for name in ("Content-Type", "Content-Disposition", "ETag"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
