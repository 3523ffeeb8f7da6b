"""Beginnings of prompts: found by all that they follow from, the longest there is, and within their bytes."""

from __future__ import annotations

import torch

from adapter_service.engine.kv_cache import Block
from adapter_service.engine.prefix_cache import Owner, PrefixCache

CHUNK = 4
BASE: Owner = ("base", None, 1.0)
PROMPT = list(range(20))
BLOCK_BYTES = 2 * CHUNK * 4


def block(number: float) -> Block:
    return [(torch.full((1, CHUNK, 1), float(number)), torch.full((1, CHUNK, 1), -float(number)))]


def kept(cache: PrefixCache, owner: Owner, prompt: list[int], chunks: int, first: float = 0.0) -> None:
    for place in range(chunks):
        cache.keep(owner, prompt[: (place + 1) * CHUNK], block(first + place))


def found(cache: PrefixCache, owner: Owner, prompt: list[int]) -> list[float]:
    """The numbers of the blocks."""
    return [float(layers[0][0][0, 0, 0]) for layers in cache.find(owner, prompt)]


def test_the_longest_beginning_is_found_in_order() -> None:
    cache = PrefixCache(CHUNK, 2**20)
    kept(cache, BASE, PROMPT, 3)
    assert found(cache, BASE, PROMPT) == [0, 1, 2]
    assert found(cache, BASE, [*PROMPT[:9], 99, 99, 99, 99]) == [0, 1]
    assert found(cache, BASE, [99, *PROMPT]) == []
    assert (cache.queried_tokens, cache.found_tokens) == (20 + 13 + 21, 5 * CHUNK)


def test_the_last_token_is_never_found_for_its_logits_are_wanted() -> None:
    cache = PrefixCache(CHUNK, 2**20)
    kept(cache, BASE, PROMPT, 2)
    assert found(cache, BASE, PROMPT[:8]) == [0]
    assert found(cache, BASE, PROMPT[:9]) == [0, 1]


def test_nothing_is_found_for_another_version_strength_or_base() -> None:
    cache = PrefixCache(CHUNK, 2**20)
    owners: list[Owner] = [BASE, ("other", None, 1.0), ("base", "v1", 1.0), ("base", "v1", 0.5), ("base", "v2", 1.0)]
    for place, owner in enumerate(owners):
        assert found(cache, owner, PROMPT) == []
        kept(cache, owner, PROMPT, 1, first=10.0 * place)
    assert [found(cache, owner, PROMPT) for owner in owners] == [[0], [10], [20], [30], [40]]


def test_a_hole_ends_what_is_found() -> None:
    cache = PrefixCache(CHUNK, 2**20)
    cache.keep(BASE, PROMPT[:4], block(0))
    cache.keep(BASE, PROMPT[:12], block(2))
    assert found(cache, BASE, PROMPT) == [0]


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PrefixCache(CHUNK, 2 * BLOCK_BYTES)
    prompts = [[number] * 5 for number in range(3)]
    for number in (0, 1):
        cache.keep(BASE, prompts[number][:4], block(number))
    assert found(cache, BASE, prompts[0]) == [0]
    cache.keep(BASE, prompts[2][:4], block(2))
    assert [found(cache, BASE, prompt) for prompt in prompts] == [[0], [], [2]]
    assert cache.size_bytes == 2 * BLOCK_BYTES


def test_of_what_was_used_together_the_end_goes_first() -> None:
    cache = PrefixCache(CHUNK, 3 * BLOCK_BYTES)
    kept(cache, BASE, PROMPT, 3)
    assert found(cache, BASE, PROMPT) == [0, 1, 2]
    cache.keep(BASE, [99] * CHUNK, block(9))
    assert found(cache, BASE, PROMPT) == [0, 1]


def test_what_is_larger_than_all_room_drives_nothing_out() -> None:
    cache = PrefixCache(CHUNK, BLOCK_BYTES)
    cache.keep(BASE, PROMPT[:4], block(0))
    cache.keep(BASE, PROMPT[:8], block(1) * 2)
    assert found(cache, BASE, PROMPT) == [0]
    nothing = PrefixCache(CHUNK, 0)
    kept(nothing, BASE, PROMPT, 2)
    assert (found(nothing, BASE, PROMPT), nothing.size_bytes) == ([], 0)


def test_what_is_kept_is_a_copy() -> None:
    cache, given = PrefixCache(CHUNK, 2**20), block(1)
    cache.keep(BASE, PROMPT[:4], given)
    given[0][0].zero_()
    assert found(cache, BASE, PROMPT) == [1]


def test_what_is_forgotten_takes_no_memory() -> None:
    cache = PrefixCache(CHUNK, 2**20)
    kept(cache, BASE, PROMPT, 3)
    cache.forget()
    assert (found(cache, BASE, PROMPT), cache.size_bytes) == ([], 0)
