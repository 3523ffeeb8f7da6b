"""Shards by HTTP PUT: to a folder of a server, or to one address that was signed beforehand.

What is there is asked first (HEAD). A server of resumable uploads (draft-ietf-httpbis-resumable-upload)
tells how much of an interrupted one it has, and gets the rest; any other gets the file again.
Digests are those of RFC 9530.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from rl.destination import Notes, Outcome, Piece, Place
from rl.errors import DifferentError, RefusedError, UnreachableError

if TYPE_CHECKING:
    import requests

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; between two pieces of an answer
_BLOCK = 1 << 20
_TAKEN = {200, 201, 204}
_NOT_THERE = {404, 410}
_TRY_AGAIN = {408, 409, 425, 429}


@dataclass(frozen=True, slots=True)
class _Found:
    """What the server has under a name; of a part, how many bytes."""

    state: Literal["nothing", "part", "same", "different", "unknown"]
    offset: int = 0


class HttpDestination:
    """`address` is http(s)://host/path; with a query it is one signed address, which takes one shard and no manifest.

    `token` goes as `Authorization: Bearer`.
    """

    def __init__(
        self, address: str, *, token: str | None = None, timeout_seconds: tuple[float, float] = TIMEOUT_SECONDS
    ) -> None:
        self._address: SplitResult = urlsplit(address)
        self._token = token
        self._timeout_seconds = timeout_seconds
        signed = bool(self._address.query)
        path = self._address.path
        # A signed address is what it is, whatever it ends in.
        self.place = Place(
            path if not signed or path.endswith(".jsonl") else f"{path}.jsonl", takes_manifest=not signed
        )
        host = self._address.netloc.rpartition("@")[2]
        self.label = f"{self._address.scheme}://{host}{path}" + ("?(signed)" if signed else "")
        self._signed_for: str | None = None

    def send(self, piece: Piece, notes: Notes) -> Outcome:  # noqa: ARG002 - the server is asked
        import requests

        self._refuse_a_second(piece)
        with requests.Session() as session, self._plainly():
            # Compressed, a file has another length than the one that shall be compared.
            session.headers["Accept-Encoding"] = "identity"
            # As a header alone, the token would give way to what a .netrc has for this host.
            session.auth = self._authorized
            found = self._ask(session, piece)
            if found.state in {"same", "different"}:
                return self._outcome(found, piece)
            status = self._write(session, piece, found.offset)
            if status in _TAKEN:
                return "sent"
            if status == 412:
                return self._outcome(self._ask(session, piece), piece)
            raise self._error_of(status)

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _refuse_a_second(self, piece: Piece) -> None:
        if not self._address.query:
            return
        if self._signed_for not in {None, piece.sha256}:
            raise RefusedError(
                f"{self.label} is one signed address and took one shard already; have one signed for each, "
                "or name a folder"
            )
        self._signed_for = piece.sha256

    def _outcome(self, found: _Found, piece: Piece) -> Outcome:
        if found.state == "same":
            return "already there"
        if found.state == "unknown":
            raise RefusedError(
                f"{self.label}: something has that name and may not be looked at; it is this very shard if an earlier "
                "try was cut off: look there, or name another"
            )
        raise DifferentError(
            f"{self.label}: {piece.name} is there already with another content; nothing is overwritten: name another"
        )

    def _ask(self, session: requests.Session, piece: Piece) -> _Found:
        answer = session.head(self._url(piece), timeout=self._timeout_seconds, allow_redirects=False)
        if answer.status_code in _NOT_THERE:
            return _Found("nothing")
        if answer.status_code not in _TAKEN:
            # Some take only PUT (a signed address is for one method alone); the writing will tell.
            if answer.status_code >= 500 and answer.status_code != 501:
                raise self._error_of(answer.status_code)
            return _Found("unknown")
        if answer.headers.get("Upload-Complete") == "?0":
            return _Found("part", _offset(answer.headers, piece))
        return _Found("same" if self._is_same(session, answer, piece) else "different")

    def _is_same(self, session: requests.Session, answer: requests.Response, piece: Piece) -> bool:
        length, digest = answer.headers.get("Content-Length"), answer.headers.get("Repr-Digest", "")
        if length is not None and length.isdecimal() and int(length) != piece.bytes:
            return False
        if "sha-256=" in digest:
            return _digest(piece) in digest.replace(" ", "").split(",")
        return self._reads_the_same(session, piece)

    def _reads_the_same(self, session: requests.Session, piece: Piece) -> bool:
        found, size = hashlib.sha256(), 0
        with session.get(self._url(piece), timeout=self._timeout_seconds, allow_redirects=False, stream=True) as answer:
            if answer.status_code not in _TAKEN:
                raise self._error_of(answer.status_code)
            for block in answer.iter_content(_BLOCK):
                found.update(block)
                size += len(block)
                if size > piece.bytes:
                    return False
        return found.hexdigest() == piece.sha256

    def _write(self, session: requests.Session, piece: Piece, offset: int) -> int:
        headers = {"Repr-Digest": _digest(piece), "Content-Type": piece.content_type, "If-None-Match": "*"}
        method = "PUT"
        if offset:
            method = "PATCH"
            headers |= {
                "Content-Type": "application/partial-upload",
                "Upload-Offset": str(offset),
                "Upload-Complete": "?1",
            }
            del headers["If-None-Match"]  # the part that is there is what shall be continued
        with piece.path.open("rb") as file:
            file.seek(offset)
            return session.request(
                method,
                self._url(piece),
                data=_Rest(file, piece.bytes - offset),
                headers=headers,
                timeout=self._timeout_seconds,
                allow_redirects=False,
            ).status_code

    def _url(self, piece: Piece) -> str:
        scheme, netloc, path, query, _ = self._address
        return urlunsplit((scheme, netloc, path if query else quote(f"/{piece.name}", safe="/%"), query, ""))

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """requests' errors as ours; theirs quote the address, signature and all."""
        import requests

        try:
            yield
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise RefusedError(f"{self.label} is no address that can be written to; check it") from error
        except (requests.RequestException, OSError) as error:
            raise UnreachableError(f"{self.label} cannot be reached ({type(error).__name__})") from None

    def _error_of(self, status: int) -> Exception:
        if status in _TRY_AGAIN or (status >= 500 and status != 501):
            return UnreachableError(f"{self.label} answers {status}; it may take it at another try")
        if 300 <= status < 400:
            return RefusedError(f"{self.label} redirects ({status}); name the address that it leads to")
        hint = "set RL_UPLOAD_TOKEN, or a newly signed address" if status in {401, 403} else "check the address"
        return RefusedError(f"{self.label} refuses with {status}; {hint}")


class _Rest:
    """A file from its present place on, with the length that requests asks for."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._length = file, length

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _digest(piece: Piece) -> str:
    return f"sha-256=:{b64encode(bytes.fromhex(piece.sha256)).decode()}:"


def _offset(headers: Mapping[str, str], piece: Piece) -> int:
    """How much of the piece is there; 0, to begin anew, for what makes no sense."""
    offset = headers.get("Upload-Offset", "")
    return int(offset) if offset.isdecimal() and int(offset) <= piece.bytes else 0
