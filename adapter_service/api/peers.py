"""Who is on this machine, and answered while there are no API keys: its peers, and no web page through them.

A page in a browser here is a loopback peer too. It is recognized by its Origin, and by the name in
the Host header when the page's own name was made to point at 127.0.0.1 (DNS rebinding).

Nor is a stranger for whom a proxy here speaks: X-Forwarded-For can only take trust away. It can give
none: `serve` runs uvicorn with `proxy_headers=False`, and a uvicorn started by hand puts its addresses
in the peer's place only where the connection itself comes from 127.0.0.1. (One started with
`--forwarded-allow-ips='*'`, or FORWARDED_ALLOW_IPS=*, believes strangers before anything here is asked.)
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

_ONLY_HERE = (
    "without an API key, or with 'security.loopback_only', only peers on this machine are answered: "
    "call from there, for example through an SSH tunnel"
)


def refusal(scope: Scope) -> str | None:
    """Why the sender of this request is not answered; None when it is."""
    peer = (scope.get("client") or ("an unknown address",))[0]
    if not is_loopback(peer):
        return f"you come from {peer}; {_ONLY_HERE}"
    headers = Headers(scope=scope)
    forwarded = ", ".join(headers.getlist("x-forwarded-for"))
    if forwarded and not all(is_loopback(address.strip()) for address in forwarded.split(",")):
        return f"a proxy on this machine speaks for X-Forwarded-For: {forwarded[:200]!r}; {_ONLY_HERE}"
    host = headers.get("host", "")
    if not is_loopback_name(_name_in(f"//{host}")):
        return f"the Host header names {host!r}; use one of localhost, 127.0.0.1 and [::1], and nothing else"
    origin = headers.get("origin")
    if origin is not None and not is_loopback_name(_name_in(origin)):
        return f"the request comes from a page of {origin!r}; only pages of this machine are answered"
    return None


def _name_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets with no IPv6 address in them
        return ""


def is_loopback(address: str) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def is_loopback_name(host: str) -> bool:
    """`localhost`, a name below it, or a loopback address."""
    name = host.casefold().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(host)
