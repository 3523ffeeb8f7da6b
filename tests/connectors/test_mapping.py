from __future__ import annotations

from typing import Any

import pytest

from adapter_service import languages
from adapter_service.connectors.base import Connector
from adapter_service.connectors.tally import Tally, tallied
from adapter_service.errors import SettingsError, SourceFormatError
from adapter_service.languages import instructions
from adapter_service.samples import Message, Sample
from tests.connectors.conftest import open_kind

GOOD = {"text": "good"}


def open_items(*items: object, **options: Any) -> Connector:
    return open_kind("memory", items=list(items), **options)


def only_sample(item: dict[str, Any], **options: Any) -> Sample:
    [(_, sample)] = open_items(item, **options).stream()
    return sample


def skipped(*items: object, **options: Any) -> dict[str, int]:
    tally = Tally("corpus", max_skipped_fraction=1.0)
    list(tallied(open_items(*items, **options), tally))
    return dict(tally.counts()["reasons"])


def test_plain_text_is_one_message_of_the_assistant() -> None:
    sample = only_sample({"body": " नमस्ते \n", "lang": "Hindi"}, fields={"text": "body", "language": "lang"})
    assert sample.messages == (Message("assistant", "नमस्ते"),)
    assert sample.language == "hi"


def test_prompt_and_completion_are_two_turns() -> None:
    sample = only_sample({"prompt": "2+2?", "completion": "4"}, format="completion")
    assert sample.messages == (Message("user", "2+2?"), Message("assistant", "4"))


def test_a_chat_keeps_its_turns() -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert [(m.role, m.content) for m in only_sample({"messages": messages}, format="chat").messages] == turns


def test_parallel_text_becomes_an_instruction_and_its_answer() -> None:
    item = {"source": "Good morning", "target": "सुप्रभात", "language": "hi-IN", "source_language": "English"}
    sample = only_sample(item, format="parallel")
    assert (sample.completion, sample.language) == ("सुप्रभात", "hi")
    assert sample.metadata == {"source_text": "Good morning", "source_language": "en"}
    assert instructions.target_language(sample.prompt) == languages.find("hi")


def test_most_instructions_are_worded_as_users_write_them_and_some_are_not() -> None:
    items = [{"source": f"Text {i}", "target": "उत्तर", "language": "hi", "source_language": "en"} for i in range(100)]
    prompts = [sample.prompt for _, sample in open_items(*items, format="parallel").stream()]
    canonical = sum(prompt.startswith("Translate to Hindi: ") for prompt in prompts)
    assert 40 <= canonical <= 80


def test_a_text_that_is_not_known_to_be_english_is_never_called_so() -> None:
    items = [{"source": f"Texte {i}", "target": "उत्तर", "language": "hi"} for i in range(50)]
    samples = [sample for _, sample in open_items(*items, format="parallel").stream()]
    assert all(sample.prompt.startswith("Translate to Hindi: Texte") for sample in samples)


def test_a_dot_goes_into_an_object_and_a_default_stands_for_a_missing_field() -> None:
    sample = only_sample(
        {"translation": {"en": "Water", "ta": "நீர்"}},
        format="parallel",
        fields={"source": "translation.en", "target": "translation.ta"},
        defaults={"language": "ta"},
    )
    assert (sample.completion, sample.language) == ("நீர்", "ta")


@pytest.mark.parametrize(
    ("item", "options", "reason"),
    [
        ({"txt": "a"}, {}, "no field 'text'"),
        ({"text": None}, {}, "no field 'text'"),
        ({"text": " "}, {}, "field 'text' is empty"),
        ({"text": ["a"]}, {}, "field 'text' is a list, not text"),
        ({"text": "a", "language": "Klingon"}, {}, "unknown language 'Klingon'"),
        ("a", {}, "a str where an object is wanted"),
        ({"text": "half \ud83d"}, {}, "field 'text' has half of a character"),
    ],
)
def test_a_record_that_does_not_fit_is_skipped_with_the_reason(
    item: object, options: dict[str, Any], reason: str
) -> None:
    assert skipped(GOOD, item, **options) == {reason: 1}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hi", "field 'messages' is not a list of messages"),
        ([], "field 'messages' is not a list of messages"),
        ([{"role": "user", "content": "Hi"}], "the last of 'messages' is the user's, not the assistant's"),
        (
            [{"role": "bot", "content": "Hi"}],
            "a message in 'messages' without a role of system, user, assistant",
        ),
        ([{"role": "assistant", "content": "half \ude00"}], "field 'messages' has half of a character"),
    ],
)
def test_a_chat_that_cannot_be_learned_from_is_skipped_with_the_reason(messages: object, reason: str) -> None:
    good = {"messages": [{"role": "assistant", "content": "Hello"}]}
    [found] = skipped(good, {"messages": messages}, format="chat")
    assert found.startswith(reason)


@pytest.mark.parametrize("count", [3, 1000])
def test_a_wrong_field_name_is_told_at_once_with_the_names_found(count: int) -> None:
    tally = Tally("corpus", max_skipped_fraction=1.0)
    connector = open_items(*[{"body": "a", "lang": "hi"}] * count)
    with pytest.raises(SourceFormatError, match=r"'text'; wanted: text; found: body, lang"):
        list(tallied(connector, tally))
    assert tally.read == min(count, 19)


def test_a_check_tells_of_a_wrong_field_name_too() -> None:
    with pytest.raises(SourceFormatError, match=r"wanted: text; found: body"):
        open_items({"body": "a"}).check()


def test_half_a_character_in_the_name_of_a_field_leaves_the_message_whole() -> None:
    with pytest.raises(SourceFormatError, match=r"found: half \?\.") as caught:
        list(open_kind("memory", items=[{"half \ud83d": "a"}]).stream())
    assert str(caught.value).encode()


def test_bad_records_before_the_first_good_one_are_no_wrong_field_name() -> None:
    assert skipped(*[{"body": "a"}] * 19, GOOD, *[{"body": "a"}] * 30) == {"no field 'text'": 49}


def test_a_language_filter_takes_names_and_tags_and_leaves_the_unknown_out() -> None:
    items = [{"text": tag, "language": tag} for tag in ("hi", "ta-LK", "bn")] + [{"text": "none"}]
    connector = open_items(*items, only=("Hindi", "ta"))
    assert [sample.completion for _, sample in connector.stream()] == ["hi", "ta-LK"]
    assert skipped(*items, only=("hi",)) == {"other language": 2, "no language": 1}


def test_a_filter_of_the_request_goes_before_that_of_the_entry() -> None:
    items = [{"text": tag, "language": tag} for tag in ("hi", "ta")]
    assert [s.language for _, s in open_items(*items, languages=["hi"]).stream()] == ["hi"]
    assert [s.language for _, s in open_items(*items, languages=["hi"], only=("ta",)).stream()] == ["ta"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fields": {"prompt": "q"}}, r"fields has 'prompt'; format 'text' has the fields text, language"),
        ({"format": "chat", "defaults": {"text": "a"}}, r"defaults has 'text'"),
        ({"languages": ["Hindii"]}, r"unknown language 'Hindii'; did you mean 'Hindi'"),
        ({"defaults": {"language": "Hindii"}}, r"unknown language 'Hindii'; did you mean 'Hindi'"),
        ({"fomat": "text"}, r"unknown key 'corpus.fomat'; did you mean 'format'"),
        ({"max_samples": 0}, r"max_samples"),
    ],
)
def test_a_faulty_mapping_is_refused_when_it_is_opened(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        open_items(GOOD, **options)
