"""A node's id, and the adapter that its commands are learned by."""

from __future__ import annotations

import hashlib
import re

from adapter_service import adapter_names
from adapter_service.node_ids import fault_of

__all__ = ["adapter_of", "fault_of"]

_PREFIX = "node-"
_ENDS_AS_HASHED = re.compile(r".*-[0-9a-f]{12}")


def adapter_of(node_id: str) -> str:
    """The adapter's name: `node-` and the id.

    An id that no adapter may be called by has a part of its hash behind it, and so has one that ends as if it had.
    """
    name = f"{_PREFIX}{node_id}"
    if adapter_names.fault_of(name) is None and not _ENDS_AS_HASHED.fullmatch(node_id):
        return name
    digest = hashlib.sha256(node_id.encode()).hexdigest()[:12]
    return f"{_PREFIX}{node_id.lower()[:40]}-{digest}"
