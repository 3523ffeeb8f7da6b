"""How deep in the decoder a linear layer lies, as its path tells.

Decoder layers are the members of one list of the model, and their numbers stand in the paths:
`model.layers.7.mlp.up_proj` is in the eighth layer, GPT-2's `transformer.h.3.attn.c_attn` in the fourth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from adapter_service.errors import InvalidParameterError

T = TypeVar("T")
# The first number in a path; the ones after it count experts, or the members of one layer.
_MEMBER_OF_A_LIST = re.compile(r"(?P<list>([^.]+\.)*?)(?P<number>\d+)\.")


def depths(paths: Iterable[str]) -> dict[str, int]:
    """The decoder layer, from 0, of each path that lies in one.

    Of several lists the decoder is the one with the most linear layers: what sees or hears before it has fewer.
    """
    lists: dict[str, dict[str, int]] = {}
    for path in paths:
        if found := _MEMBER_OF_A_LIST.match(path):
            lists.setdefault(found["list"], {})[path] = int(found["number"])
    return max(lists.values(), key=len, default={})


def upper_half(layers: Mapping[str, T]) -> dict[str, T]:
    """Those in decoder layer n / 2 and above, of n; whatever lies in none is left out.

    Raises:
        InvalidParameterError: the base has no list of decoder layers, or one of a single layer.
    """
    found = depths(layers)
    count = max(found.values(), default=-1) + 1
    if count < 2:
        raise InvalidParameterError(
            f"lora.layers is 'top-half', and this base has {count} numbered decoder layers, where two are wanted; "
            "use 'all', or name layers in target_modules",
            parameter="lora_layers",
        )
    return {path: layer for path, layer in layers.items() if 2 * found.get(path, -1) >= count}


def reached_backward(chosen: Iterable[str], layers: Mapping[str, T]) -> dict[str, T]:
    """Those that the backward pass goes through when `chosen` are trained: it ends at the lowest of these.

    One outside of the decoder's layers may lie before all of them.
    """
    found = depths(layers)
    lowest = min((found.get(path, 0) for path in chosen), default=0)
    return {path: layer for path, layer in layers.items() if found.get(path, lowest) >= lowest}
