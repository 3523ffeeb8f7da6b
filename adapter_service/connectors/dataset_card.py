"""What a dataset's card says of where its files lie, looked at before `datasets` goes there.

`datasets` looks for a file at any address that a card names, in any protocol that fsspec has, and
only then refuses what does not belong to the dataset: whoever writes a card could have requests
sent into the network of whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from adapter_service.errors import SourceFormatError

README = "README.md"
# The second adds to the first, and goes before it.
CARDS = (README, ".huggingface.yaml")


def refuse_addresses(shown: str, cards: Iterable[Path]) -> None:
    """Only paths within the dataset `shown` are let through.

    Raises:
        SourceFormatError: an address.
        ValueError, TypeError, yaml.YAMLError: a card that cannot be read.
    """
    for card in cards:
        for place in _places(_metadata(card).get("configs")):
            # `::` chains one place to the next.
            if "://" in place or "::" in place:
                raise SourceFormatError(
                    f"dataset '{shown}': its card ({card.name}) names {place[:100]!r}, which lies outside of the "
                    "dataset; only its own files are read: configure that one as a source of its own"
                )


def _metadata(card: Path) -> Mapping[str, Any]:
    if card.name == README:
        metadata: Mapping[str, Any] = DatasetCard.load(card).data.to_dict()
        return metadata
    found = yaml.safe_load(card.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _places(configs: Any) -> Iterator[str]:
    """Every path and pattern under `data_files` and `data_dir`, however they are nested."""
    for config in configs if isinstance(configs, list) else ():
        if isinstance(config, dict):
            yield from _strings([config.get("data_files"), config.get("data_dir")])


def _strings(value: Any) -> Iterator[str]:
    """Those within `value`; what YAML repeats by its anchors, be it within itself, is looked at once."""
    to_do, seen = [value], set()
    while to_do:
        found = to_do.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict | list) and id(found) not in seen:
            seen.add(id(found))
            to_do += found.values() if isinstance(found, dict) else found
