"""Requests that never reach a private address, but for the one host that the operator allows.

requests-hardened resolves a name once, checks the address and connects to that very address. What
it does not do is done here: one more denied address, redirects followed one by one and always
checked, configured headers kept from other hosts, and nothing taken from the environment (.netrc
would hand a user's passwords to sources; a proxy would resolve names behind our back).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
from requests_hardened import Config, HTTPSession
from requests_hardened.ip_filter import InvalidIPAddress, filter_host
from requests_hardened.ip_filter_adapter import IPFilterAdapter

from adapter_service.connectors.deadline import limit_headers
from adapter_service.errors import SourceUnreachableError

# It warns of each private address in a line of its own, which our error repeats in full.
logging.getLogger("requests_hardened").setLevel(logging.ERROR)
# At DEBUG it says every path with its query: a signature or a key may be in it.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)

MAX_REDIRECTS = 5
# Azure's metadata service: a public address that only the machine itself can reach.
_DENIED_ADDRESSES = frozenset({"168.63.129.16"})


class _PublicOnlyAdapter(IPFilterAdapter):  # type: ignore[misc] # requests-hardened has no types
    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        if host["host"] in _DENIED_ADDRESSES:
            raise InvalidIPAddress(host["host"])
        return host, pool


class _Session(HTTPSession):  # type: ignore[misc] # as above
    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[requests.PreparedRequest]:
        """None: of an answer that redirects, requests would read the whole body first, whatever its size."""
        return iter(())


class Outbound:
    """One source's connections; closed as a context manager."""

    def __init__(self, *, headers: Mapping[str, str], timeout_seconds: float, allow_private: bool = False) -> None:
        self._headers = dict(headers)
        self._timeout = (timeout_seconds, timeout_seconds)
        self._public = self._session(is_filtered=True)
        self._configured = self._session(is_filtered=False) if allow_private else self._public

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._configured.close()
        self._public.close()

    def get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The answer after redirects, whose body is not read yet; the caller closes it.

        Raises:
            SourceUnreachableError: a private address, or redirects without end.
            requests.RequestException: as requests has it; the connection failed.
        """
        first, session = url, self._configured
        for _ in range(MAX_REDIRECTS):
            own = self._headers if _origin(url) == _origin(first) else {}
            response = self._send(session, url, {**own, **headers})
            if not response.is_redirect:
                return response
            response.close()
            url = _target(response, url)
            # Whatever the first host was allowed, where it points to was chosen by someone else.
            session = self._public
        raise SourceUnreachableError(
            f"{shown(first)} redirects more than {MAX_REDIRECTS} times; give the final address as `url`"
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> requests.Response:
        """The answer as it is, be it a redirect, whose body is not read yet; the caller closes it.

        Raises:
            SourceUnreachableError: a private address.
            requests.RequestException: as requests has it; the connection failed.
        """
        return self._send(self._configured, url, {**self._headers, **headers}, body)

    def _send(self, session: Any, url: str, headers: Mapping[str, str], body: bytes | None = None) -> requests.Response:
        method = "GET" if body is None else "POST"
        try:
            response: requests.Response = session.request(
                method, url, headers=headers, data=body, timeout=self._timeout, stream=True, allow_redirects=False
            )
        except InvalidIPAddress as error:
            raise _private(url) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise SourceUnreachableError(
                f"{shown(url)} is no address that can be read ({error}); give an http:// or https:// URL"
            ) from error
        except requests.exceptions.InvalidHeader:
            # Without the cause, which repeats the header's value.
            raise SourceUnreachableError(
                f"{shown(url)}: a value under `headers` has a line break or begins with a blank, which no header "
                "may; mend it, or the variable that it names"
            ) from None
        return response

    def _session(self, *, is_filtered: bool) -> Any:
        session = _Session(
            Config(
                ip_filter_enable=is_filtered,
                ip_filter_allow_loopback_ips=False,
                never_redirect=True,
                default_timeout=self._timeout,
                user_agent_override="adapter-service",
            )
        )
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        if is_filtered:
            session.mount("http://", _PublicOnlyAdapter(is_https_proto=False))
            session.mount("https://", _PublicOnlyAdapter(is_https_proto=True))
        for adapter in session.adapters.values():
            limit_headers(adapter.poolmanager, 2 * self._timeout[1])
        return session


def refuse_private(url: str) -> None:
    """For clients that make their own connections, to an endpoint that no caller chooses: look it up once.

    Raises:
        SourceUnreachableError: a private address, or a name that nobody knows.
    """
    parts = urlsplit(url)
    try:
        address = filter_host(parts.hostname or "", parts.port or 443, allow_loopback=False)
    except InvalidIPAddress as error:
        raise _private(url) from error
    except requests.RequestException as error:
        raise SourceUnreachableError(f"{shown(url)}: {error}; check the address and the network") from error
    if address in _DENIED_ADDRESSES:
        raise _private(url)


def _private(url: str) -> SourceUnreachableError:
    return SourceUnreachableError(
        f"{shown(url)} is at a private address, which raw sources and redirects never "
        "reach; if it is your own, configure it as a source with `allow_private: true`"
    )


def _target(response: requests.Response, url: str) -> str:
    """Where the answer of `url` points to."""
    location = response.headers["location"]
    with suppress(UnicodeError):
        # Headers are taken for Latin-1, and written in UTF-8 where they are not in ASCII.
        location = location.encode("latin-1").decode()
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise SourceUnreachableError(
            f"{shown(url)} redirects to what is no address ({error}); give the final address as `url`"
        ) from error


def shown(url: str) -> str:
    """The URL for people: without a password, and without its query, which may hold a key."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()
