"""An artifact from its signed URL to a file whose size and hash are known: begun again where it broke off.

The URL, or what a server says of it, stands in no message.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from adapter_service.connectors.http_answer import body
from adapter_service.connectors.outbound import Outbound
from adapter_service.durable import make_folder, sync
from adapter_service.errors import (
    AdapterFormatError,
    SourceUnreachableError,
    StoreUnreachableError,
    UnknownArtifactError,
)

TIMEOUT_SECONDS = 30.0
_GONE = frozenset({401, 403, 404, 410})
_LATER = frozenset({408, 425, 429})
_RANGE_NOT_SATISFIABLE = 416


def download(url: str, part: Path, *, size_bytes: int, sha256: str) -> int:
    """Complete `part`, a file that may have a beginning already; how many bytes it had.

    Raises:
        StoreUnreachableError: it broke off; what came is kept.
        UnknownArtifactError: the URL is good no longer.
        AdapterFormatError: something else came; the file is removed.
    """
    make_folder(part.parent)
    had = _length(part)
    if had > size_bytes:
        part.unlink()
        had = 0
    if had < size_bytes:
        _fetch(url, part, had, size_bytes)
    if _hash(part) != sha256 and had:
        # A power cut leaves a file as long as it was and not as it was written.
        part.unlink()
        had = 0
        _fetch(url, part, had, size_bytes)
    if (found := _length(part)) != size_bytes:
        raise StoreUnreachableError(f"{found} of {size_bytes} bytes came; it goes on from there")
    if (digest := _hash(part)) != sha256:
        part.unlink()
        raise AdapterFormatError(f"its hash is {digest[:12]}, and {sha256[:12]} was announced; it is not used")
    sync(part)
    return had


def _fetch(url: str, part: Path, had: int, size_bytes: int) -> None:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
    try:
        with (
            Outbound(headers={}, timeout_seconds=TIMEOUT_SECONDS, allow_private=True) as outbound,
            closing(outbound.get(url, headers)) as response,
        ):
            _receive(response, part, had, size_bytes)
    except (requests.RequestException, HTTPError, SourceUnreachableError) as error:
        # Without the cause, which has the whole URL in it.
        raise StoreUnreachableError(f"it broke off ({type(error).__name__}); it goes on later") from None


def _receive(response: requests.Response, part: Path, had: int, size_bytes: int) -> None:
    status = response.status_code
    if status in _GONE:
        raise UnknownArtifactError(f"the server answers {status}: the URL is good no longer, or never was")
    if status == _RANGE_NOT_SATISFIABLE:
        part.unlink(missing_ok=True)
        raise StoreUnreachableError("the server has no more than came already; it is fetched anew")
    if status >= 500 or status in _LATER:
        raise StoreUnreachableError(f"the server answers {status}; it is asked again later")
    is_rest = status == 206 and response.headers.get("content-range", "").startswith(f"bytes {had}-")
    if status not in {200, 206} or (status == 206 and not is_rest):
        raise AdapterFormatError(f"the server answers {status} where 200 or 206 with the rest is wanted")
    left = size_bytes - (had if is_rest else 0)
    with part.open("ab" if is_rest else "wb") as file:
        for block in body(response.raw, TIMEOUT_SECONDS):
            left -= len(block)
            if left < 0:
                break
            file.write(block)
    if left < 0:
        part.unlink()
        raise AdapterFormatError(f"more came than the {size_bytes} bytes that were announced; it is not used")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
