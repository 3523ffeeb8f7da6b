"""A node's id, and the adapter that its commands are learned by."""

from __future__ import annotations

import hashlib
import re

from adapter_service import adapter_names

# It becomes a part of MQTT topics, object keys and paths of URLs, none of which may have anything else in it.
NODE_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NODE_ID = re.compile(NODE_ID)
_PREFIX = "node-"


def fault_of(node_id: str) -> str | None:
    """What is wrong with a node's id; None of one that will do."""
    if _NODE_ID.fullmatch(node_id):
        return None
    return (
        f"{node_id[:100]!r} is no node's id; it has 1 to 100 letters, digits, '.', '_' and '-' and begins with a "
        "letter or a digit"
    )


def adapter_of(node_id: str) -> str:
    """The adapter's name: `node-` and the id; one that no adapter may be called has a part of its hash behind it."""
    name = f"{_PREFIX}{node_id}"
    if adapter_names.fault_of(name) is None:
        return name
    digest = hashlib.sha256(node_id.encode()).hexdigest()[:12]
    return f"{_PREFIX}{node_id.lower()[:40]}-{digest}"
