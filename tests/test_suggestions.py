"""What was meant instead of a word that is not known."""

from __future__ import annotations

from adapter_service.suggestions import closest, did_you_mean


def test_a_word_that_is_close_is_proposed() -> None:
    assert did_you_mean("alhpa", ["r", "alpha"]) == "; did you mean 'alpha'?"


def test_without_one_the_sentence_goes_on() -> None:
    assert did_you_mean("zzz", ["r", "alpha"]) == ";"


def test_among_those_that_are_close_one_that_begins_alike_goes_first() -> None:
    assert closest("hindee", ["chinese", "sindhi", "hindi"]) == "hindi"
