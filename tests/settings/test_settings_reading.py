"""YAML with lines, whatever stands in the file."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_service.errors import SettingsError
from adapter_service.settings.reading import MAX_BYTES, parse_document, parse_value, read_document


@given(st.text(alphabet=st.sampled_from("ab: -[]{}&*!'\"\n#|>%@0.e~?,"), max_size=60))
def test_any_text_is_read_or_refused_with_a_settings_error(text: str) -> None:
    with suppress(SettingsError):
        assert isinstance(parse_document(text, name="x").values, dict)


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "a: " + "[" * 30 + "]" * 30])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(SettingsError, match="deeper than 20 levels"):
        parse_document(text, name="x")


def test_size_is_bounded(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("big") / "big.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SettingsError, match="1048577 bytes; at most 1048576"):
        read_document(path)


def test_every_key_and_item_has_its_line() -> None:
    document = parse_document("a:\n  b: 1\n\n  c:\n    - x\n    - y\n", name="f")
    assert document.place(("a", "c", "1")) == "f line 6"
    assert document.place(("a", "b", "deeper")) == "f line 2"
    assert document.lines_below(("a", "c")) == {"0": 5, "1": 6}


@pytest.mark.parametrize(
    ("text", "value"),
    [("[a, b]", ["a", "b"]), ("null", None), ("", None), ("a: b: c", "a: b: c"), ("[", "[")],
)
def test_one_value_is_read_as_in_a_file(text: str, value: object) -> None:
    assert parse_value(text) == value
