from __future__ import annotations

from collections import Counter

from adapter_service.sample_corpus.pair import Pair
from adapter_service.sample_corpus.selection import select


def sentences(origin: str, count: int, target: str = "यह एक वाक्य है") -> list[Pair]:
    return [Pair(f"Please read {origin} sentence {n}", target, "hi", origin) for n in range(count)]


def test_the_same_pairs_are_chosen_whatever_order_they_come_in() -> None:
    pairs = sentences("chromium", 60) + sentences("android", 60)
    assert select(pairs, 30) == select(pairs[::-1], 30)


def test_origins_are_chosen_by_their_shares() -> None:
    counts = Counter(p.origin for p in select(sentences("chromium", 90) + sentences("firefox", 90), 70))
    assert counts["chromium"] > 2 * counts["firefox"] > 0


def test_what_one_origin_lacks_the_others_fill() -> None:
    counts = Counter(p.origin for p in select(sentences("chromium", 5) + sentences("firefox", 90), 50))
    assert counts == {"chromium": 5, "firefox": 45}


def test_one_text_has_one_translation_the_first() -> None:
    first, second = (
        Pair("Save changes", "पहला", "hi", "android"),
        Pair("Save changes…", "दूसरा", "hi", "firefox"),
    )
    assert select([first, second]) == [first]


def test_targets_wholly_in_their_script_come_first() -> None:
    mixed = sentences("chromium", 20, target="यह Chrome का वाक्य है")
    plain = [Pair(f"You read plain text {n}", "यह एक वाक्य है", "hi", "chromium") for n in range(20)]
    assert set(select(mixed + plain, 20)) == set(plain)
