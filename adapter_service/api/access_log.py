"""Uvicorn's access log without what lets in: it writes whole paths, and a signed link has its token there."""

from __future__ import annotations

import logging
import re

from adapter_service.auth.keys import PREFIX

_TOKEN = re.compile(r"(?<=/api/v0/artifacts/)[^/?\s]+")
_QUERY = re.compile(r"\?\S+")
_KEY = re.compile(rf"{PREFIX}[\w-]{{16,}}")


def veiled(path: str) -> str:
    """`path` without tokens, keys, and whatever stands behind a question mark."""
    return _KEY.sub("…", _QUERY.sub("?…", _TOKEN.sub("…", path)))


class _Veil(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(veiled(arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


def veil_access_log() -> None:
    """For every way to start the service; a second time changes nothing."""
    logger = logging.getLogger("uvicorn.access")
    if not any(isinstance(known, _Veil) for known in logger.filters):
        logger.addFilter(_Veil())
