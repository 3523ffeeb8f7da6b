"""Conversations to tokens: what is learned is the answer and its end, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.errors import BaseModelError, InvalidParameterError, InvalidSampleError
from adapter_service.rendering import Renderer
from adapter_service.samples import Message, Sample
from tests.conftest import byte_tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

ANSWERS = ["सुप्रभात", "வணக்கம், நண்பரே!", "ok 👩‍👩‍👧 🙂", "two\nlines\n\nand a blank one", " begins with a blank"]
CHAT = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)
# Ends no turn at all.
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# Writes older answers of the assistant otherwise than the one it is about to give.
REWRITING = (
    "{% for m in messages %}{{ (loop.index ~ '/' ~ messages|length) + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# As Gemma's: no system message.
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT


def tokenizer(template: str | None = None) -> Any:
    made = byte_tokenizer()
    made.chat_template = template
    return made


def pair(answer: str, question: str = "Translate: Good morning") -> Sample:
    return Sample((Message("user", question), Message("assistant", answer)))


def learned(used: Any, sample: Sample) -> str:
    rendered = Renderer(used).render(sample, 10_000)
    text: str = used.decode(rendered.ids[rendered.completion_start :])
    return text


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("template", [None, CHAT, ENDLESS, REWRITING], ids=["plain", "chat", "endless", "rewriting"])
def test_what_is_learned_is_exactly_the_answer_and_its_end(template: str | None, answer: str) -> None:
    assert learned(tokenizer(template), pair(answer)) == answer + "</s>"


@pytest.mark.parametrize("template", [None, CHAT, ENDLESS, REWRITING], ids=["plain", "chat", "endless", "rewriting"])
def test_what_stands_before_it_is_what_serving_renders(template: str | None) -> None:
    renderer = Renderer(tokenizer(template))
    rendered = renderer.render(pair("सुप्रभात"), 10_000)
    served = renderer.prompt_ids([Message("user", "Translate: Good morning")])
    assert list(rendered.ids[: rendered.completion_start]) == served


@pytest.mark.model
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_small_base_ends_its_turn_where_its_template_does(small_base: BaseModel, answer: str) -> None:
    assert learned(small_base.tokenizer, pair(answer)) == answer + "<|im_end|>"


def test_the_end_is_learned_though_it_pads_too() -> None:
    used = tokenizer()
    assert used.pad_token_id == used.eos_token_id
    rendered = Renderer(used).render(pair("hm"), 100)
    assert (rendered.completion_tokens, rendered.ids[-1]) == (3, used.eos_token_id)


def test_a_plain_base_gets_the_prompt_and_a_line_break() -> None:
    used = tokenizer()
    assert used.decode(Renderer(used).prompt_ids([Message("user", "Hello")])) == "<s>Hello\n"


def test_a_chat_base_gets_its_template_with_one_begin_token() -> None:
    used = tokenizer(CHAT)
    ids = Renderer(used).prompt_ids([Message("user", "Hello")])
    assert used.decode(ids) == "<s>user: Hello</s>\n<s>assistant: "


def test_of_a_longer_conversation_the_last_answer_alone_is_learned() -> None:
    turns = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert learned(tokenizer(CHAT), Sample((*turns, Message("assistant", "d")))) == "d</s>"


def test_a_token_over_the_border_is_cut_there() -> None:
    """With a merge of line break and letter, prompt and answer share a token when rendered as one text."""
    newline, letter = (byte_tokenizer().tokenize(text)[0] for text in "\nx")
    used = _with_merge(newline, letter)
    assert len(used("\nx")["input_ids"]) == 2
    assert learned(used, pair("xyz")) == "xyz</s>"


def _with_merge(left: str, right: str) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    described = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    described["model"]["vocab"][left + right] = len(described["model"]["vocab"])
    described["model"]["merges"] = [[left, right]]
    described["pre_tokenizer"]["use_regex"] = False
    begin, end = "<s>", "</s>"
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), bos_token=begin, eos_token=end
    )


def test_a_whole_text_is_learned_but_for_its_begin_token() -> None:
    rendered = Renderer(tokenizer()).render(Sample((Message("assistant", "नमस्ते"),)), 100)
    assert rendered.completion_start == 1
    assert learned(tokenizer(), Sample((Message("assistant", "नमस्ते"),))) == "नमस्ते</s>"


def test_a_chat_base_learns_a_whole_text_without_its_template() -> None:
    assert learned(tokenizer(CHAT), Sample((Message("assistant", "Once upon a time"),))) == "Once upon a time</s>"


def test_a_sample_that_is_too_long_is_refused_and_never_cut() -> None:
    renderer, sample = Renderer(tokenizer()), pair("answer", "ask")
    assert len(renderer.render(sample, 12).ids) == 12
    with pytest.raises(InvalidSampleError, match=r"12 tokens are more than training\.max_seq_length = 11"):
        renderer.render(sample, 11)


@pytest.mark.parametrize("last", [Message("user", "a question"), Message("assistant", " \n")])
def test_a_sample_without_an_answer_is_refused(last: Message) -> None:
    with pytest.raises(InvalidSampleError, match="nothing to learn"):
        Renderer(tokenizer()).render(Sample((Message("user", "q"), last)), 100)


def test_a_conversation_that_the_template_refuses_is_a_bad_record() -> None:
    turns = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"))
    with pytest.raises(InvalidSampleError, match="refuses this conversation: System role not supported"):
        Renderer(tokenizer(STRICT)).render(Sample(turns), 100)


def test_messages_that_the_template_refuses_are_the_callers_to_mend() -> None:
    with pytest.raises(InvalidParameterError, match="refuses these messages: System role not supported"):
        Renderer(tokenizer(STRICT)).prompt_ids([Message("system", "Be brief."), Message("user", "a")])


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(BaseModelError, match="no end token"):
        Renderer(endless)


def test_another_template_has_another_id() -> None:
    ids = {Renderer(tokenizer(template)).template_id for template in (None, CHAT, STRICT)}
    assert len(ids) == 3
    assert Renderer(tokenizer(CHAT)).template_id in ids
