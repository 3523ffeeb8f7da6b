"""A hub's own prompts: what is judged by was not learned, however often the hub has it."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.commands.formatted import formatted_curriculum
from adapter_service.commands.words import normalized


def example(sentence: str, prompt: str, completion: str = "done") -> dict[str, Any]:
    call = {"name": "timer", "arguments": {}}
    return {"sentence": sentence, "prompt": prompt, "completion": completion, "system": "You call functions.", **call}


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("sentences", [2, 3, 12])
def test_a_sentence_in_several_prompts_is_on_one_side_alone(fraction: float, sentences: int) -> None:
    texts = [text for n in range(sentences) for text in (f"Timer {n}", f"timer  {n}!", f"TIMER {n}")]
    made = formatted_curriculum([example(t, f"User: {t}") for t in texts], holdout_fraction=fraction)
    learned = {normalized(sample.prompt.removeprefix("User: ")) for sample in made.training}
    judged = {normalized(held.sentence) for held in made.holdout}
    assert learned
    assert judged
    assert not learned & judged
    assert len(made.training) + len(made.holdout) == len(texts)


def test_one_sentence_alone_is_learned_in_all_its_prompts() -> None:
    made = formatted_curriculum([example("Timer", f"{n}: Timer") for n in range(4)], holdout_fraction=0.5)
    assert (len(made.training), made.holdout) == (4, ())


def test_equal_prompts_are_one_and_those_with_another_answer_contradict() -> None:
    given = [example(f"Timer {n}", f"User: {n}") for n in (1, 2, 2, 3)]
    made = formatted_curriculum([*given, example("Timer 3", "User: 3", "else")], holdout_fraction=0.3)
    assert (len(made.training) + len(made.holdout), made.repeated, made.contradicting) == (3, 1, ("Timer 3",))
