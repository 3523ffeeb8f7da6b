from __future__ import annotations

import hashlib
from itertools import count

from adapter_service.sample_corpus.reserved import is_reserved, is_reserved_in_some_form


def a_reserved_text() -> str:
    return next(text for text in (f"sentence {n}" for n in count()) if is_reserved(text))


def test_the_predicate_is_the_published_one() -> None:
    texts = [f"sentence {n}" for n in range(200)]
    expected = [int(hashlib.sha256(t.encode()).hexdigest()[:8], 16) % 20 == 0 for t in texts]
    assert [is_reserved(text) for text in texts] == expected


def test_case_and_spaces_around_do_not_matter() -> None:
    assert is_reserved(f"  {a_reserved_text().upper()}\n")


def test_another_closing_mark_does_not_free_a_reserved_text() -> None:
    assert is_reserved_in_some_form(f"{a_reserved_text()}…")
    assert is_reserved_in_some_form(f"{a_reserved_text()}!")
