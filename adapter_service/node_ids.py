"""What a node may be called: the one pattern."""

from __future__ import annotations

import re

# It becomes a part of MQTT topics, object keys, paths of URLs and scopes of keys, none of which may have anything else
# in it.
PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_NODE_ID = re.compile(PATTERN)


def fault_of(node_id: str) -> str | None:
    """What is wrong with a node's id; None of one that will do."""
    if _NODE_ID.fullmatch(node_id):
        return None
    return (
        f"{node_id[:100]!r} is no node's id; it has 1 to 100 letters, digits, '.', '_' and '-' and begins with a "
        "letter or a digit"
    )
