"""An evaluation tells a translator from one that copies, guesses or looks things up."""

from __future__ import annotations

import random

import pytest
from rich.console import Console

from adapter_service.errors import EmptySourceError, InvalidInputError
from adapter_service.languages import find
from adapter_service.languages.answers import corpus_chrf
from adapter_service.languages.instructions import canonical
from adapter_service.measuring.evaluation import Evaluation, choose_pairs, evaluate
from adapter_service.measuring.evaluation_report import render_markdown, rich_table
from adapter_service.measuring.retrieval import NearestNeighbour
from adapter_service.samples import Message, Sample

TEXTS = {
    "hi": {
        "The weather is very good today.": "आज मौसम बहुत अच्छा है।",
        "Where is the nearest railway station?": "सबसे नज़दीकी रेलवे स्टेशन कहाँ है?",
        "My brother works in a school.": "मेरा भाई एक स्कूल में काम करता है।",
    },
    "ta": {
        "The weather is very good today.": "இன்று வானிலை மிகவும் நன்றாக உள்ளது.",
        "Where is the nearest railway station?": "அருகிலுள்ள ரயில் நிலையம் எங்கே உள்ளது?",
        "My brother works in a school.": "என் சகோதரர் ஒரு பள்ளியில் வேலை செய்கிறார்.",
    },
}


def pair(source: str, target: str, tag: str) -> Sample:
    messages = (Message("user", canonical(source, find(tag))), Message("assistant", target))
    return Sample(messages, language=tag, metadata={"source_text": source, "source_language": "en"})


PAIRS = choose_pairs(pair(source, target, tag) for tag, texts in TEXTS.items() for source, target in texts.items())
TRAINING = [pair("The weather was bad yesterday.", "कल मौसम ख़राब था।", "hi")]


def perfect(prompts: list[str], adapter: str) -> list[str]:
    """The adapter knows every reference; the base copies its prompt."""
    by_prompt = {sample.prompt: sample.completion for sample in PAIRS}
    return list(prompts) if adapter == "base" else [by_prompt[prompt] for prompt in prompts]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(PAIRS, perfect, adapter="multilingual", training_pairs=TRAINING)


def test_a_perfect_translator_meets_every_target(evaluation: Evaluation) -> None:
    assert evaluation.total.ok == 6
    assert evaluation.total.chrf == pytest.approx(100)
    assert all(row.met for row in evaluation.targets())


def test_a_base_that_echoes_has_nothing_ok(evaluation: Evaluation) -> None:
    assert evaluation.total.base_ok == 0
    assert evaluation.total.base_chrf < 10


def test_scores_are_told_per_language_too(evaluation: Evaluation) -> None:
    assert {tag: score.ok for tag, score in evaluation.languages.items()} == {"hi": 3, "ta": 3}


def test_the_unrelated_reference_is_another_pairs_of_the_same_language(evaluation: Evaluation) -> None:
    for row in evaluation.rows:
        assert row.unrelated in set(TEXTS[row.language.tag].values()) - {row.reference}


def test_a_lone_pair_of_a_language_has_no_unrelated_reference() -> None:
    alone = evaluate(PAIRS[:1], perfect, adapter="multilingual", training_pairs=())
    assert alone.rows[0].unrelated is None
    assert alone.total.unrelated_chrf == 0


def test_answering_with_unrelated_text_of_the_language_misses_the_chrf_targets() -> None:
    def guessing(prompts: list[str], adapter: str) -> list[str]:
        right = perfect(prompts, adapter)
        return [right[(place + 1) % 3 + place // 3 * 3] for place in range(len(right))]

    guessed = evaluate(PAIRS, guessing, adapter="multilingual", training_pairs=TRAINING)
    assert guessed.total.ok == 6
    assert [row.met for row in guessed.targets()][2] is False


def test_looking_the_text_up_beats_nobody_who_is_no_better() -> None:
    looked_up = evaluate(PAIRS, perfect, adapter="multilingual", training_pairs=PAIRS)
    assert looked_up.total.retrieval_chrf == looked_up.total.chrf
    assert looked_up.targets()[3].met is False


def test_no_pairs_and_missing_answers_are_errors() -> None:
    with pytest.raises(EmptySourceError, match="at least four words"):
        evaluate([], perfect, adapter="multilingual", training_pairs=())
    with pytest.raises(InvalidInputError, match="0 answers of 'multilingual' for 6 prompts"):
        evaluate(PAIRS, lambda *_: [], adapter="multilingual", training_pairs=())


def test_the_same_pairs_are_chosen_in_whatever_order_they_come() -> None:
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    assert choose_pairs(shuffled, per_language=2) == choose_pairs(PAIRS, per_language=2)
    assert len(choose_pairs(shuffled, per_language=2)) == 4


def test_short_texts_plain_texts_and_repeated_sources_are_not_chosen() -> None:
    unfit = [
        pair("Good morning", "सुप्रभात", "hi"),
        Sample((Message("assistant", "आज मौसम बहुत अच्छा है।"),), language="hi"),
    ]
    again = [*PAIRS, pair("The weather is very good today.", "आज का मौसम अच्छा है।", "hi")]
    assert choose_pairs(unfit) == []
    assert len(choose_pairs(again)) == len(PAIRS)


def test_the_reports_name_every_language_and_every_target(evaluation: Evaluation) -> None:
    text = render_markdown(evaluation)
    assert "| Hindi | 3 | 3 | 0 |" in text
    assert "| all | 6 | 6 | 0 |" in text
    assert all(row.measure in text for row in evaluation.targets())
    assert rich_table(evaluation).row_count == 3
    assert Console(width=200).measure(rich_table(evaluation)).maximum <= 80


def test_the_nearest_neighbour_shares_words_before_letters() -> None:
    neighbours = NearestNeighbour(
        [("Open the window", "खिड़की"), ("Close the door", "दरवाज़ा"), ("Opening hours", "समय")]
    )
    assert neighbours.target("Please open a window") == "खिड़की"
    assert neighbours.target("door") == "दरवाज़ा"
    assert neighbours.target("xyz") == ""


def test_the_controls_are_scored_like_the_answers(evaluation: Evaluation) -> None:
    retrieved = [row.retrieved for row in evaluation.rows]
    references = [row.reference for row in evaluation.rows]
    assert evaluation.total.retrieval_chrf == corpus_chrf(retrieved, references)
