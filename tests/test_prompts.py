"""The ten fixed prompts: complete, answerable, and none of them seen in training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from adapter_service import sample_corpus
from adapter_service.languages import LANGUAGES
from adapter_service.languages.instructions import canonical, target_language
from adapter_service.languages.scripts import script_share

FILE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "test_prompts/prompts_10.json").read_text("utf-8"))
PROMPTS: list[dict[str, Any]] = FILE["prompts"]
SENTENCES = [prompt["prompt"].partition(": ")[2] for prompt in PROMPTS]


def test_there_is_one_prompt_for_each_language_in_order() -> None:
    codes = [prompt["language_code"] for prompt in PROMPTS]
    assert codes == ["hi", "bn", "ta", "te", "gu", "mr", "ur", "pa", "kn", "ml"]
    assert codes == FILE["metadata"]["languages_covered"]
    assert FILE["metadata"]["total_prompts"] == len(PROMPTS)


def test_each_prompt_is_the_instruction_that_users_write() -> None:
    for prompt, sentence in zip(PROMPTS, SENTENCES, strict=True):
        language = LANGUAGES[prompt["language_code"]]
        assert prompt["prompt"] == canonical(sentence, language)
        assert target_language(prompt["prompt"]) == language
        assert prompt["language"] == language.name


def test_the_sentences_are_short_and_all_different() -> None:
    assert all(4 <= len(sentence.split()) <= 9 for sentence in SENTENCES)
    assert len(set(SENTENCES)) == len(SENTENCES)


def test_each_reference_is_wholly_in_its_script() -> None:
    scripts = [LANGUAGES[prompt["language_code"]].script for prompt in PROMPTS]
    assert all(script_share(p["reference"], s) == 1 for p, s in zip(PROMPTS, scripts, strict=True))


def test_no_sentence_and_no_reference_is_in_the_corpus() -> None:
    with gzip.open(sample_corpus.path(), "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    shipped = {_folded(r[side]) for r in records for side in ("source", "target")}
    ours = {_folded(text) for text in [*SENTENCES, *(p["reference"] for p in PROMPTS)]}
    assert ours & shipped == set()


def test_the_service_is_asked_greedily_at_its_lite_endpoint() -> None:
    config = FILE["testing_config"]
    assert (config["endpoint"], config["do_sample"], config["max_new_tokens"]) == (
        "/generate-lite",
        False,
        64,
    )


def _folded(text: str) -> str:
    return text.lower().strip(" .?!।۔؟")
