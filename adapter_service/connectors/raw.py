"""Sources named by an address instead of a configured name, for those who are allowed to."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapter_service.connectors.base import Connector
from adapter_service.connectors.registry import open_source
from adapter_service.errors import ForbiddenError, InvalidParameterError
from adapter_service.settings import SourceEntry

RAW_SCHEMES = ("http", "https")


def is_raw(source: str) -> bool:
    """Whether `source` is an address and not a configured name."""
    return "://" in source or source.startswith(("file:", "hf:"))


def open_raw(
    uri: str,
    allow_list: Sequence[str] | None,
    *,
    allow_local: bool = False,
    mapping: Mapping[str, object] | None = None,
    languages: Sequence[str] = (),
    seed: int = 0,
    shuffle_buffer: int = 0,
) -> Connector:
    """The samples at an address; private addresses are never reached.

    `allow_list` has prefixes of URLs; None stands for the operator at the command line, who needs
    none, and who alone may set `allow_local` to name a file. `mapping` has options of the source
    (`format`, `fields`, `file_format` …).

    Raises:
        ForbiddenError: not under a prefix of the list, or a file where that is not allowed.
        InvalidParameterError: an address of another kind.
    """
    kind, address = _kind_and_address(uri, allow_local=allow_local)
    if kind == "http" and allow_list is not None and not any(_is_under(uri, prefix) for prefix in allow_list):
        raise ForbiddenError(
            f"the raw source {_shown(uri)!r} is not on the allow-list (security.raw_sources has "
            f"{len(allow_list)} prefixes); name a configured source instead, or ask the operator to add it"
        )
    entry = SourceEntry(name="raw", kind=kind, options={**(mapping or {}), **address}, file="raw source")
    return open_source(entry, languages=languages, seed=seed, shuffle_buffer=shuffle_buffer)


def _kind_and_address(uri: str, *, allow_local: bool) -> tuple[str, dict[str, object]]:
    scheme = uri.partition(":")[0].lower() if is_raw(uri) else "file"
    if scheme in RAW_SCHEMES:
        # ${VAR} in an address would put the service's own secrets into a request.
        return "http", {"url": uri.replace("${", "%24%7B"), "allow_private": False}
    if scheme != "file":
        raise InvalidParameterError(
            f"raw source {_shown(uri)!r}: addresses of http:// and https:// are read; "
            "for anything else configure a source in mcp_connectors.yml and give its name",
            parameter="source",
        )
    if not allow_local:
        raise ForbiddenError(
            f"{_shown(uri)!r} names a file; files are read only from configured sources: give the name of one"
        )
    path = uri.removeprefix("file:").removeprefix("//")
    return "local", {"path": str(Path(path).expanduser().absolute())}


def _is_under(uri: str, prefix: str) -> bool:
    """Whether the URL lies at or below the prefix: the same host to the letter, and whole path segments."""
    url, allowed = urlsplit(uri), urlsplit(prefix)
    if (url.scheme, url.netloc.lower()) != (allowed.scheme, allowed.netloc.lower()):
        return False
    path = unquote(url.path)
    if "\\" in path or "@" in url.netloc or posixpath.normpath(path or "/") != (path.rstrip("/") or "/"):
        return False
    base = allowed.path.rstrip("/")
    return path == base or path.startswith(f"{base}/")


def _shown(uri: str) -> str:
    return uri.partition("?")[0][:200]
