"""What a node's commands are known by: equal commands, equal hash, whoever sends them.

Hubs wrote the same commands down in two ways, so that one dataset had two hashes. There is one form here; a hub that
sends its own hash along may have made it in either of the older ways.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from adapter_service.canonical import canonical_json
from adapter_service.errors import InvalidParameterError


def dataset_hash(commands: Any) -> str:
    """64 hex digits of the SHA-256 of the canonical form in UTF-8."""
    return _sha256(canonical_json(commands))


def check_dataset_hash(given: str, commands: Any) -> None:
    """That `given` is of `commands`, in our form or one of the older two, spaced ASCII or compact and unsorted.

    The older two were made of the commands alone or of the dataset that they are sent in.

    Raises:
        InvalidParameterError: it is of something else.
    """
    ours = dataset_hash(commands)
    sent = {"format": "inline-json", "data": {"commands": commands}}
    forms = [
        form
        for hashed in (commands, sent)
        for form in (
            json.dumps(hashed, sort_keys=True, allow_nan=False),
            json.dumps(hashed, separators=(",", ":"), ensure_ascii=False, allow_nan=False),
            canonical_json(hashed),
        )
    ]
    if given.lower() not in map(_sha256, forms):
        raise InvalidParameterError(
            f"'dataset_hash' is {given!r}, but the commands' is {ours}; send the commands that it was made of, "
            "or leave it out",
            parameter="dataset_hash",
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
