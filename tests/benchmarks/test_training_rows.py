"""The rows of the training benchmarks: the same for every trainer, and none of the holdout among them."""

from __future__ import annotations

from pathlib import Path

from adapter_service.rendering import RenderedSample
from adapter_service.settings import load_settings
from benchmarks.training_rows import LONGEST, SHORTEST, make_rows, read_rows, write_rows


class _Characters:
    """A tokenizer whose tokens are characters; 0 begins a text."""

    bos_token_id = 0

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}


def test_rows_are_the_same_for_a_seed_and_survive_the_file(tmp_path: Path) -> None:
    rows = make_rows(load_settings(), _Characters(), 40, seed=1)
    assert make_rows(load_settings(), _Characters(), 40, seed=1) == rows
    assert make_rows(load_settings(), _Characters(), 40, seed=2) != rows
    write_rows(tmp_path / "rows.json", rows)
    assert read_rows(tmp_path / "rows.json") == rows


def test_rows_are_uneven_and_a_third_of_each_is_trained_on() -> None:
    rows = make_rows(load_settings(), _Characters(), 400, seed=1)
    lengths = sorted(len(row.ids) for row in rows)
    assert (lengths[0], lengths[-1]) == (SHORTEST, LONGEST)
    assert 56 <= lengths[200] <= 72
    assert all(row.ids[0] == 0 for row in rows)
    assert {round(row.completion_tokens / len(row.ids), 1) for row in rows} <= {0.3, 0.4}


def test_what_is_held_out_is_of_other_sentences_than_the_rest() -> None:
    settings = load_settings()
    shown = {_text(row) for row in make_rows(settings, _Characters(), 300, seed=1)}
    kept = {_text(row) for row in make_rows(settings, _Characters(), 300, seed=1, held_out=True)}
    assert not {line for text in shown for line in text} & {line for text in kept for line in text}


def _text(row: RenderedSample) -> frozenset[str]:
    """Its whole lines of some length: what is short stands in many sentences."""
    lines = "".join(chr(token) for token in row.ids).split("\n")[1:-1]
    return frozenset(line for line in lines if len(line) > 30)
