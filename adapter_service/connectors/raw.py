"""Sources named by an address instead of a configured name, for those who are allowed to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from adapter_service.connectors.base import Connector
from adapter_service.connectors.registry import open_source
from adapter_service.errors import ForbiddenError, InvalidParameterError
from adapter_service.settings import SourceEntry

# The options that the part of an address behind `?` may give for a dataset of the Hub.
_OF_DATASETS = frozenset({"config", "split", "data_dir"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def is_raw(source: str) -> bool:
    """Whether `source` is an address and not a configured name."""
    return "://" in source or source.startswith(("file:", "hf:"))


def open_raw(
    uri: str,
    allow_list: Sequence[str] | None,
    *,
    allow_local: bool = False,
    languages: Sequence[str] = (),
    seed: int = 0,
    shuffle_buffer: int = 0,
) -> Connector:
    """The samples at an address; private addresses are never reached.

    `https://…`, `s3://bucket/key` (a prefix where it ends in /), `hf:owner/name@revision?config=…&split=…`.
    `allow_list` has prefixes of addresses; None stands for the operator at the command line, who needs
    none, and who alone may set `allow_local` to name a file.

    Raises:
        ForbiddenError: not under a prefix of the list, or a file where that is not allowed.
        InvalidParameterError: an address of another kind.
    """
    raw = _parsed(uri)
    if raw.kind == "local" and not allow_local:
        raise ForbiddenError(
            f"{_shown(uri)!r} names a file; files are read only from configured sources: give the name of one"
        )
    if raw.kind != "local" and allow_list is not None and not any(is_under(raw.name, p) for p in allow_list):
        raise ForbiddenError(
            f"the raw source {_shown(uri)!r} is not on the allow-list (security.raw_sources has "
            f"{len(allow_list)} prefixes); name a configured source instead, or ask the operator to add it"
        )
    entry = SourceEntry(name="raw", kind=raw.kind, options=raw.options, file="raw source", folder=Path.cwd())
    return open_source(entry, languages=languages, seed=seed, shuffle_buffer=shuffle_buffer)


class _Raw(NamedTuple):
    """`name` is what the allow-list is asked about."""

    kind: str
    name: str
    options: dict[str, object]


def _parsed(uri: str) -> _Raw:
    scheme, _, rest = uri.partition(":") if is_raw(uri) else ("file", "", uri)
    scheme = scheme.lower()
    if scheme in {"http", "https"}:
        # ${VAR} in an address would put the service's own secrets into a request.
        return _Raw("http", uri, {"url": uri.replace("${", "%24%7B"), "allow_private": False})
    if scheme == "file":
        return _Raw("local", uri, {"path": rest.removeprefix("//")})
    if scheme not in _PARSERS:
        raise _unreadable(uri, "https://…, s3://bucket/key and hf:owner/name are read")
    raw = _PARSERS[scheme](uri, rest)
    # In what came out of it, since behind the ? it may have stood in an encoded form.
    if any("${" in str(value) for value in raw.options.values()):
        raise _unreadable(uri, "variables of the environment are not put into it")
    return raw


def _of_s3(uri: str, rest: str) -> _Raw:
    bucket, _, key = rest.removeprefix("//").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _unreadable(uri, f"{bucket[:100]!r} is no name of a bucket")
    where = {"key": key} if key and not key.endswith("/") else {"prefix": key}
    return _Raw("s3", uri, {"bucket": bucket, **where, "allow_private": False})


def _of_the_hub(uri: str, rest: str) -> _Raw:
    place, _, query = rest.partition("?")
    dataset, _, revision = place.partition("@")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _OF_DATASETS):
        raise _unreadable(uri, f"behind the ? stand {', '.join(sorted(_OF_DATASETS))}, and not {unknown[0][:100]!r}")
    if not _HUB_ID.fullmatch(dataset):
        raise _unreadable(uri, f"{dataset[:100]!r} is no id of a dataset (owner/name)")
    given = {"dataset": dataset, "revision": revision, **options, "allow_private": False}
    return _Raw("hf", f"hf:{dataset}", given)


_PARSERS: dict[str, Callable[[str, str], _Raw]] = {"s3": _of_s3, "hf": _of_the_hub}


def _unreadable(uri: str, why: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"raw source {_shown(uri)!r}: {why}; for anything else configure a source in mcp_connectors.yml "
        "and give its name",
        parameter="source",
    )


def is_under(uri: str, prefix: str) -> bool:
    """Whether the address lies at or below the prefix: the same host to the letter, and whole path segments."""
    url, allowed = urlsplit(uri), urlsplit(prefix)
    if (url.scheme, url.netloc.lower()) != (allowed.scheme, allowed.netloc.lower()):
        return False
    path = unquote(url.path)
    if "\\" in path or "@" in url.netloc or posixpath.normpath(path or "/") != (path.rstrip("/") or "/"):
        return False
    base = allowed.path.rstrip("/")
    return not base or path == base or path.startswith(f"{base}/")


def _shown(uri: str) -> str:
    return uri.partition("?")[0][:200]
