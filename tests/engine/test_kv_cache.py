"""Places for keys and values: the least that is free, of the capacity that is asked for, and attention to them."""

from __future__ import annotations

import pytest
import torch

from adapter_service.engine.cached_attention import PromptAttention, StepAttention
from adapter_service.engine.kv_cache import Block, KvCache, Place

LAYERS, HEADS, GROUPS, SIZE = 2, 4, 2, 8
SCALE = SIZE**-0.5
CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(tokens: int, seed: int = 0) -> Block:
    """Keys and values (groups, tokens, size) of each layer."""
    return [
        (numbers(GROUPS, tokens, SIZE, seed=seed + layer), numbers(GROUPS, tokens, SIZE, seed=seed + layer + 100))
        for layer in range(LAYERS)
    ]


def filled(cache: KvCache, tokens: int, seed: int, room: int = 1) -> Place:
    place = cache.take(max(room, tokens + 8))
    cache.write(place, 0, block(tokens, seed))
    return place


def same(found: Block, wanted: Block) -> bool:
    return all(
        torch.equal(one, other) for a, b in zip(found, wanted, strict=True) for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    ("tokens", "capacity"), [(1, 256), (256, 256), (257, 512), (512, 512), (513, 1024), (5000, 8192)]
)
def test_a_place_has_room_for_what_is_asked(tokens: int, capacity: int) -> None:
    assert KvCache().take(tokens).capacity == capacity


def test_the_place_that_was_given_back_is_the_next_one() -> None:
    cache = KvCache()
    places = [cache.take(10) for _ in range(4)]
    cache.give_back(places[1])
    assert [place.number for place in places] == [0, 1, 2, 3]
    assert cache.take(10) == places[1]
    assert cache.taken_tokens == cache.tokens == 4 * 256
    cache.give_back(places[0])
    assert (cache.taken_tokens, cache.tokens) == (3 * 256, 4 * 256)


def test_what_is_written_is_read_whatever_is_taken_and_given_back_meanwhile() -> None:
    cache = KvCache()
    first = filled(cache, 100, seed=1)
    others = [filled(cache, 50, seed=seed) for seed in range(2, 9)]
    for other in others[::2]:
        cache.give_back(other, clean=True)
    assert same(cache.read(first, 0, 100), block(100, seed=1))
    assert same(cache.read(others[1], 0, 50), block(50, seed=3))


def test_a_copy_is_its_own() -> None:
    cache = KvCache()
    source, target = filled(cache, 70, seed=1), cache.take(300)
    cache.copy(source, target, 70)
    cache.write(source, 0, block(70, seed=2))
    assert same(cache.read(target, 0, 70), block(70, seed=1))


def test_large_places_give_their_memory_back_and_small_ones_keep_it() -> None:
    cache = KvCache()
    small, large = filled(cache, 10, seed=1), filled(cache, 10, seed=2, room=2000)
    both = cache.tokens
    cache.give_back(large)
    alone = cache.tokens
    cache.give_back(small)
    assert both > alone == cache.tokens > 0
    assert cache.taken_tokens == 0


def test_a_clean_place_has_nothing_of_the_one_before() -> None:
    cache = KvCache()
    keeping, place = filled(cache, 10, seed=1), cache.take(100)
    cache.write(place, 0, [(k * torch.nan, v) for k, v in block(90)])
    cache.give_back(place, clean=True)
    assert all(not k.any() and not v.any() for k, v in cache.read(cache.take(100), 0, 256))
    assert same(cache.read(keeping, 0, 10), block(10, seed=1))


def test_layers_that_memory_ran_out_before_have_as_many_places_as_the_others() -> None:
    """The first layer was made for four places, the second only when three of them had gone again."""
    cache = KvCache()
    places = [cache.take(10) for _ in range(4)]
    cache.write(places[3], 0, block(5)[:1])
    for place in places[:3]:
        cache.give_back(place)
    cache.write(places[3], 0, block(5))
    assert same(cache.read(places[3], 0, 5), block(5))
    for _ in range(5):
        cache.write(cache.take(10), 0, block(5))
    assert same(cache.read(places[3], 0, 5), block(5))


# Attention, against a plain one over exactly what a row may see.


def plain(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> torch.Tensor:
    """(tokens, heads, size) of the last tokens of a sequence: query (heads, tokens, size), keys (groups, all, size)."""
    tokens, everything = query.shape[1], keys.shape[1]
    keys, values = (x.repeat_interleave(HEADS // GROUPS, dim=0) for x in (keys, values))
    own = torch.arange(everything - tokens, everything)[:, None]
    others = torch.arange(everything)
    hidden = (others > own) | (others <= own - (window or everything))
    scores = (query @ keys.transpose(1, 2) * SCALE).masked_fill(hidden, float("-inf"))
    attended: torch.Tensor = scores.softmax(-1) @ values
    return attended.transpose(0, 1)


@pytest.mark.parametrize("window", [None, 1, 20, 1000])
def test_a_piece_of_a_prompt_sees_what_stands_before_it_and_itself(window: int | None) -> None:
    cache = KvCache()
    place = filled(cache, 70, seed=5)
    attention = PromptAttention(cache, place, 70, 9)
    query = numbers(1, HEADS, 9, SIZE, seed=1)
    key, value = numbers(1, GROUPS, 9, SIZE, seed=2), numbers(1, GROUPS, 9, SIZE, seed=3)
    for layer in range(LAYERS):
        found = attention.attend(layer, query, key, value, SCALE, window)
        before = block(70, seed=5)[layer]
        keys, values = torch.cat([before[0], key[0]], dim=1), torch.cat([before[1], value[0]], dim=1)
        torch.testing.assert_close(found[0], plain(query[0], keys, values, window))


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0]], ids=str)
def test_a_row_sees_its_own_sequence_in_every_company(order: list[int], window: int | None) -> None:
    """Two capacities, places that nobody has between them, and one whose last owner left no numbers far behind."""
    cache = KvCache()
    lengths, rooms = (5, 130, 64, 200), (1, 300, 1, 300)
    gaps = [cache.take(10), cache.take(300)]
    places = [filled(cache, length, seed=9 * length, room=room) for length, room in zip(lengths, rooms, strict=True)]
    for gap in gaps:
        cache.write(gap, 0, [(k * torch.nan, v * torch.nan) for k, v in block(200)])
        cache.give_back(gap)
    query, key, value = (
        numbers(len(order), heads, 1, SIZE, seed=seed) for seed, heads in enumerate((HEADS, GROUPS, GROUPS))
    )
    attention = StepAttention(cache, [places[row] for row in order], [lengths[row] for row in order], CPU)
    for layer in range(LAYERS):
        found = attention.attend(layer, query, key, value, SCALE, window)
        for place, row in enumerate(order):
            before = block(lengths[row], seed=9 * lengths[row])[layer]
            keys, values = torch.cat([before[0], key[place]], dim=1), torch.cat([before[1], value[place]], dim=1)
            torch.testing.assert_close(found[place], plain(query[place], keys, values, window))
