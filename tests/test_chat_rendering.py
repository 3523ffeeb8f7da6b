"""Whole conversations to tokens: every role, tools, and templates that refuse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.chat_rendering import conversation_ids, template_id, tools_block
from adapter_service.conversation import Tool, ToolCall, Turn
from adapter_service.errors import InvalidParameterError
from adapter_service.rendering import Renderer
from adapter_service.samples import Message
from tests.test_rendering import CHAT, STRICT, tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

WEATHER = Tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}}, "The weather in a city.")
CALL = ToolCall("call_1", "get_weather", '{"city": "पुणे"}')
CALLED = (Turn("user", "Weather?"), Turn("assistant", "", (CALL,)), Turn("tool", "29 °C", call_id="call_1"))
# As Qwen's and Llama's: tools and calls are the template's own business.
NATIVE = (
    "{% if tools %}{{ '<s>tools: ' + (tools | map(attribute='function') | map(attribute='name') | join(',')) }}"
    "{% endif %}{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c.function.name + '=' + c.function.arguments['city'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)
# As Gemma's: turns must alternate, and there is no system.
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ '<s>' + m['role'] + ': ' + m['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% endif %}"
)


def said(template: str | None, turns: Any, tools: Any = (), **options: Any) -> str:
    used = tokenizer(template)
    text: str = used.decode(conversation_ids(Renderer(used), turns, tools, **options))
    return text


@pytest.mark.parametrize("template", [None, CHAT, STRICT, NATIVE, ALTERNATING])
def test_one_question_is_rendered_as_training_does(template: str | None) -> None:
    renderer = Renderer(tokenizer(template))
    question = "Translate to Hindi: Good morning"
    assert conversation_ids(renderer, [Turn("user", question)]) == renderer.prompt_ids([Message("user", question)])


@pytest.mark.model
def test_the_small_base_too(small_base: BaseModel) -> None:
    renderer = Renderer(small_base.tokenizer)
    assert conversation_ids(renderer, [Turn("user", "Hi")]) == renderer.prompt_ids([Message("user", "Hi")])


def test_a_base_without_a_template_gets_all_texts_line_by_line() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    assert said(None, turns) == "<s>Be brief.\na\nb\nc\n"
    assert said(None, CALLED).splitlines()[1:] == [
        '{"name": "get_weather", "arguments": {"city": "पुणे"}}',
        "Result of get_weather: 29 °C",
    ]


def test_tools_are_described_in_front_where_the_template_knows_none() -> None:
    block = tools_block([WEATHER])
    assert said(CHAT, [Turn("user", "Hi")], [WEATHER]).startswith(f"<s>system: {block}</s>")
    assert said(CHAT, [Turn("system", "S"), Turn("user", "Hi")], [WEATHER]).startswith(f"<s>system: S\n\n{block}</s>")
    assert json.loads(block.splitlines()[1])["name"] == "get_weather"
    assert "list" not in block
    assert "list" in tools_block([WEATHER], parallel=True)


def test_a_template_that_knows_tools_gets_them_and_calls_as_objects() -> None:
    assert said(NATIVE, CALLED, [WEATHER]) == (
        "<s>tools: get_weather<s>user: Weather?<s>assistant: get_weather=पुणे<s>tool: 29 °C<s>assistant: "
    )


def test_several_calls_in_one_answer_are_a_list() -> None:
    turns = [Turn("user", "?"), Turn("assistant", "", (CALL, ToolCall("call_2", "get_weather", "{}")))]
    shown = said(CHAT, turns).split("assistant: ")[1].removesuffix("</s>\n<s>")
    assert [call["arguments"] for call in json.loads(shown)] == [{"city": "पुणे"}, {}]


@pytest.mark.parametrize("template", [STRICT, ALTERNATING])
def test_a_system_that_a_template_refuses_goes_before_the_question(template: str) -> None:
    assert "user: Be brief.\n\nHello" in said(template, [Turn("system", "Be brief."), Turn("user", "Hello")])


def test_turns_that_must_alternate_are_joined() -> None:
    turns = [Turn("user", "a"), Turn("user", "b"), *CALLED[1:], Turn("user", "And now?")]
    assert said(ALTERNATING, turns) == (
        '<s>user: a\n\nb<s>assistant: {"name": "get_weather", "arguments": {"city": "पुणे"}}'
        "<s>user: Result of get_weather: 29 °C\n\nAnd now?<s>assistant: "
    )


def test_what_no_folding_mends_is_refused_with_the_templates_reason() -> None:
    with pytest.raises(InvalidParameterError, match="roles must alternate; change their roles") as refused:
        said(ALTERNATING, [Turn("assistant", "a"), Turn("user", "b")])
    assert refused.value.parameter == "messages"


def test_a_result_of_no_call_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="'call_9'; the calls before it are 'call_1'"):
        said(CHAT, [*CALLED, Turn("tool", "x", call_id="call_9")])


def test_only_tools_change_the_template_id() -> None:
    plain, native = Renderer(tokenizer(CHAT)), Renderer(tokenizer(NATIVE))
    assert template_id(plain, []) == plain.template_id != template_id(plain, [WEATHER])
    assert template_id(native, [WEATHER]) == native.template_id
