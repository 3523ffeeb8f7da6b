"""Permission bits that count: a process of root's gives up what lets it pass over them."""

from __future__ import annotations

import ctypes
import os

_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def become_ordinary() -> None:
    """Give up every capability of this process (capset(2)), if it runs as root; owner and groups stay."""
    if os.geteuid() != 0:
        return
    header, nothing = _Header(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
