"""Equal commands have equal hashes, and a hub's own hash is verified."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.canonical import canonical_json
from adapter_service.commands.dataset_hash import check_dataset_hash, dataset_hash
from adapter_service.errors import InvalidParameterError

COMMANDS = [{"command_name": "licht", "description": "für die Küche", "examples": [{"b": 1.5, "a": [True, None]}]}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_form_is_sorted_compact_utf_8() -> None:
    assert canonical_json({"b": "ü", "a": [1, 2]}) == '{"a":[1,2],"b":"ü"}'
    assert dataset_hash(COMMANDS) == sha256(
        '[{"command_name":"licht","description":"für die Küche","examples":[{"a":[true,null],"b":1.5}]}]'
    )


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert dataset_hash(value) == dataset_hash(dict(reversed(value.items())))
    check_dataset_hash(dataset_hash(value), value)


@pytest.mark.parametrize(
    "form",
    [
        json.dumps(COMMANDS, sort_keys=True),
        json.dumps(COMMANDS, separators=(",", ":"), ensure_ascii=False),
        canonical_json(COMMANDS),
        json.dumps({"format": "inline-json", "data": {"commands": COMMANDS}}, sort_keys=True),
        canonical_json({"format": "inline-json", "data": {"commands": COMMANDS}}),
    ],
)
def test_a_hub_may_have_hashed_in_an_older_form(form: str) -> None:
    check_dataset_hash(sha256(form).upper(), COMMANDS)


@pytest.mark.parametrize("wrong", ["", "../../etc/passwd", "0" * 64, sha256(canonical_json(COMMANDS))[:-1]])
def test_any_other_hash_is_refused_with_the_right_one(wrong: str) -> None:
    with pytest.raises(InvalidParameterError, match=dataset_hash(COMMANDS)) as caught:
        check_dataset_hash(wrong, COMMANDS)
    assert caught.value.parameter == "dataset_hash"
