"""Answers held to a grammar: what the masks allow, where an answer may end, and whole answers of random logits."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.conversation import Tool
from adapter_service.engine.constraints import Matcher
from adapter_service.engine.grammar_compiler import GrammarCompiler
from adapter_service.engine.grammars import (
    Grammar,
    choice_grammar,
    json_object_grammar,
    json_schema_grammar,
    lark_grammar,
    regex_grammar,
)
from adapter_service.engine.requests import Sampling
from adapter_service.engine.tool_calls import parse_tool_calls, tool_call_grammar
from adapter_service.errors import InvalidParameterError
from tests.answers_by_batch import decode
from tests.conftest import byte_tokenizer
from tests.engine.test_text import by_sentencepiece

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

BYTES = byte_tokenizer()
COMPILER = GrammarCompiler(BYTES)
END = BYTES.eos_token_id
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "नम", 7, None]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def letters(text: str, tokenizer: Any = BYTES) -> list[int]:
    """The text's bytes as tokens, the names of special tokens too."""
    alphabet = {letter: place for letter, place in tokenizer.get_vocab().items() if len(letter) == 1}
    return [alphabet[byte_letter(byte)] for byte in text.encode()]


@cache
def byte_letter(byte: int) -> str:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return str(bytes_to_unicode()[byte])


def allowed(matcher: Matcher, size: int = len(BYTES)) -> set[int]:
    return set(torch.isfinite(matcher.mask(torch.zeros(size))).nonzero()[:, 0].tolist())


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the grammar allows the text, byte by byte, and an end after it."""
    matcher = COMPILER.compile(grammar).begin(frozenset({END}))
    for token in letters(text):
        if token not in allowed(matcher):
            return False
        matcher.take(token)
    return END in allowed(matcher)


def written(grammar: Grammar, seed: int, wanted: Callable[[str], float] = lambda _: 0.0) -> str:
    """What random logits write under a grammar until they end; more of the letters that are `wanted`."""
    matcher, generator, ids = (
        COMPILER.compile(grammar).begin(frozenset({END})),
        torch.Generator().manual_seed(seed),
        list[int](),
    )
    bias = torch.tensor([wanted(BYTES.decode([token])) for token in range(len(BYTES))])
    while True:
        logits = matcher.mask(torch.randn(len(BYTES), generator=generator) * 3 + bias)
        if (token := int(logits.argmax())) == END:
            return str(BYTES.decode(ids))
        matcher.take(token)
        ids.append(token)


# Ends.


REGEXES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "न"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        inner.map(lambda one: f"({one})?"),
        inner.map(lambda one: f"({one})*"),
        inner.map(lambda one: f"({one}){{2,3}}"),
    ),
    max_leaves=6,
)


@given(REGEXES, st.data())
@settings(deadline=None)
def test_an_answer_may_end_exactly_where_the_grammar_accepts_it(pattern: str, data: st.DataObject) -> None:
    ends = frozenset({END, BYTES.bos_token_id, 200})
    matcher, said = COMPILER.compile(regex_grammar(pattern)).begin(ends), b""
    for _ in range(12):
        now = allowed(matcher)
        whole = said.decode(errors="replace")
        assert {end in now for end in ends} == {re.fullmatch(pattern, whole) is not None}
        if not (going_on := sorted(now - ends)):
            return
        token = data.draw(st.sampled_from(going_on))
        matcher.take(token)
        said += bytes([next(byte for byte in range(256) if letters_of_byte(byte) == token)])


@cache
def letters_of_byte(byte: int) -> int:
    return int(BYTES.convert_tokens_to_ids(byte_letter(byte)))


def test_a_complete_answer_can_only_end() -> None:
    matcher = COMPILER.compile(choice_grammar(["ab"])).begin(frozenset({END, 5}))
    for token in letters("ab"):
        assert allowed(matcher) == {token}
        matcher.take(token)
    assert allowed(matcher) == {END, 5}
    matcher.take(5)


def test_rows_that_a_base_has_beyond_its_vocabulary_are_never_allowed() -> None:
    matcher = COMPILER.compile(regex_grammar("(?s:.)*")).begin(frozenset({END}))
    assert max(allowed(matcher, 300)) < len(BYTES)
    assert allowed(matcher, 100) == {token for token in allowed(matcher) if token < 100}


def test_every_answer_begins_where_the_grammar_does() -> None:
    constraint = COMPILER.compile(choice_grammar(["ab", "cd"]))
    first = constraint.begin(frozenset({END}))
    first.take(letters("a")[0])
    assert allowed(constraint.begin(frozenset({END}))) == set(letters("ac"))
    assert allowed(first) == set(letters("b"))


def test_logits_keep_their_values_and_are_not_written_to() -> None:
    logits = torch.arange(float(len(BYTES)))
    masked = COMPILER.compile(choice_grammar(["a", "b"])).begin(frozenset({END})).mask(logits)
    a, b = letters("ab")
    assert masked[[a, b]].tolist() == [a, b]
    assert logits.tolist() == list(range(len(BYTES)))


# Grammars.


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_of_choices_each_is_allowed_and_nothing_else(choices: list[str], data: st.DataObject) -> None:
    grammar = choice_grammar(choices)
    assert accepts(grammar, data.draw(st.sampled_from(choices)))
    other = data.draw(st.text(max_size=5))
    assert accepts(grammar, other) == (other in choices)


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        (r"\d{4}-\d{2}", "2026-11", True),
        (r"\d{4}-\d{2}", "2026-1", False),
        ("a/b", "a/b", True),
        ('x/ | "y"', "x", False),
        (r"\p{Devanagari}+", "नमस्ते", True),
        (r"\p{Devanagari}+", "n", False),
        ("</s>", "</s>", True),
    ],
)
def test_an_answer_matches_a_regex_as_a_whole(pattern: str, text: str, wanted: bool) -> None:
    assert accepts(regex_grammar(pattern), text) == wanted


def test_a_lark_grammar_is_followed() -> None:
    grammar = lark_grammar('start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[0-9]+/')
    assert accepts(grammar, "1+22+3")
    assert not accepts(grammar, "1+")


@pytest.mark.parametrize("text", ["{}", '{"a": [1, 2.5, "न🙂", null], "b": {"c": false}}'])
def test_any_json_object_is_allowed(text: str) -> None:
    assert accepts(json_object_grammar(), text)


def test_a_schema_may_ask_for_other_blanks() -> None:
    compact = {"item_separator": ",", "key_separator": ":"}
    grammar = json_schema_grammar({"type": "object", "x-guidance": compact})
    assert accepts(grammar, '{"a":1,"b":[2,3]}')
    assert not accepts(grammar, '{"a": 1}')


@pytest.mark.parametrize("text", ["[]", '{"a": 1', '{"a":  1}', '{"a":1}', " {}", "{'a': 1}"])
def test_what_is_no_json_object_is_not_nor_blanks_without_end(text: str) -> None:
    assert not accepts(json_object_grammar(), text)


@pytest.mark.parametrize("name", ["</s>", "<s>"])
def test_names_of_special_tokens_are_text_within_text(name: str) -> None:
    """As the one way to go on, they would come as the special token, which is no text."""
    schema = {"type": "object", "properties": {"a": {"const": f"x{name}y"}}, "required": ["a"]}
    assert accepts(json_schema_grammar({**schema, "additionalProperties": False}), f'{{"a": "x{name}y"}}')
    assert written(choice_grammar([f"x{name}y"]), 0) == f"x{name}y"


@pytest.mark.parametrize("seed", range(20))
def test_what_random_logits_write_under_a_schema_is_json_as_it_says(seed: int) -> None:
    person = json.loads(written(json_schema_grammar(PERSON), seed))
    assert list(person) == ["name", "age", "tags"]
    assert len(person["name"]) <= 6
    assert 0 <= person["age"] <= 150
    assert all(tag in {"a", "नम", 7, None} for tag in person["tags"])


@pytest.mark.parametrize("seed", range(10))
def test_text_in_json_is_whole_code_points_of_any_script(seed: int) -> None:
    schema = {"type": "string", "minLength": 4, "maxLength": 8}
    text = written(json_schema_grammar(schema), seed, lambda letter: 5.0 if letter == "\ufffd" else 0.0)
    assert "\ufffd" not in text.replace("\\ufffd", "")
    assert 4 <= len(json.loads(text)) <= 8
    assert not text.isascii()


# Errors.


@pytest.mark.parametrize(
    ("grammar", "parameter", "reason"),
    [
        (json_schema_grammar({"type": "thing"}), "json_schema", "Invalid type: thing"),
        (json_schema_grammar({"if": {}}, parameter="response_format"), "response_format", "does not know 'if' in"),
        (json_schema_grammar({"$ref": "http://127.0.0.1/x"}), "json_schema", "does not fetch"),
        (json_schema_grammar({"type": "object", "properties": {"a": False}, "required": ["a"]}), "json_schema", "a"),
        (regex_grammar("((("), "regex", "unclosed group"),
        (regex_grammar("(?=a)b"), "regex", "look-around"),
        (regex_grammar("(?<!a)b" * 1000), "regex", "look-around"),
        (lark_grammar("start: thing"), "grammar", 'unknown name: "thing"'),
        (lark_grammar("nothing"), "grammar", "1"),
    ],
)
def test_a_grammar_that_is_none_is_refused_with_the_reason(grammar: Grammar, parameter: str, reason: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"^{parameter} cannot be followed: ") as error:
        COMPILER.compile(grammar)
    assert reason in str(error.value)
    assert error.value.parameter == parameter
    assert "<state>" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (regex_grammar("((a{1000}){1000}){1000}"), "too many expressions"),
        (regex_grammar("x(a{4000000000})"), "too many expressions"),
        (json_schema_grammar({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}), "too many expressions"),
        (regex_grammar(r"[^\s\S]"), "no text does"),
    ],
)
def test_what_would_only_come_out_at_the_first_tokens_is_refused_before_them(grammar: Grammar, reason: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"cannot keep to {grammar.parameter}: .*{reason}"):
        COMPILER.compile(grammar)


MANY = {f"name_{place}": {"type": "string"} for place in range(3000)}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"properties": MANY, "not": {}}, "this service does not know 'not' in a schema: take that out"),
        ({"properties": MANY, "if": {}, "then": {}}, "does not know 'if', 'then' in a schema: take that out"),
        ({"type": "integer", "minimum": 5, "maximum": 3, "title": "x" * 9000},
         "followed: Unsatisfiable schema: minimum (5) is greater than maximum (3). Change it, or leave it out"),
        ({"pattern": f"(?=a){'x' * 9000}"}, "regex parse error: look-around, including look-ahead and look-behind, is"),
        ({"$ref": f"#/{'x' * 9000}"}, f"followed: Pointer '/{'x' * 290}…. Change it, or leave it out"),
    ],
)  # fmt: skip
def test_a_reason_is_short_and_has_nothing_that_the_caller_never_sent(schema: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidParameterError) as error:
        COMPILER.compile(json_schema_grammar(schema))
    assert told in str(error.value)
    assert len(str(error.value)) < 400
    assert "start:" not in str(error.value)
    assert "x-guidance" not in str(error.value)


def test_a_schema_of_itself_alone_is_told_so() -> None:
    with pytest.raises(InvalidParameterError, match=r"no text does, or none that ends .* refers to itself"):
        COMPILER.compile(json_schema_grammar({"$ref": "#"}))


def test_no_choices_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="choice is an empty list"):
        choice_grammar([])


def test_a_token_that_was_not_allowed_is_an_error_of_this_answer_alone() -> None:
    constraint = COMPILER.compile(choice_grammar(["ab"]))
    matcher = constraint.begin(frozenset({END}))
    with pytest.raises(InvalidParameterError, match="cannot keep to choice"):
        matcher.take(letters("b")[0])
    assert allowed(constraint.begin(frozenset({END}))) == set(letters("a"))


def test_a_base_whose_tokens_cannot_write_the_grammar_says_so() -> None:
    """It has fewer rows than its tokenizer has tokens."""
    matcher = COMPILER.compile(regex_grammar("z")).begin(frozenset({END}))
    with pytest.raises(InvalidParameterError, match="no token of this base can go on"):
        matcher.mask(torch.zeros(letters("z")[0]))


def test_a_tokenizer_that_does_not_tell_its_tokens_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match=r"tokenizer \(object\) does not tell"):
        GrammarCompiler(object()).compile(regex_grammar("a"))


# Tokenizers, threads, whole answers.


def test_grammars_are_compiled_in_many_threads_over_one_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_service.engine import grammar_compiler

    build, built = grammar_compiler._vocabulary, []

    def watched(tokenizer: Any, parameter: str) -> Any:
        built.append(tokenizer)
        return build(tokenizer, parameter)

    monkeypatch.setattr(grammar_compiler, "_vocabulary", watched)
    compiler, found = GrammarCompiler(BYTES), []

    def compile_one(letter: str) -> None:
        found.append((letter, compiler.compile(choice_grammar([letter]))))

    threads = [threading.Thread(target=compile_one, args=[letter]) for letter in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert all(
        allowed(constraint.begin(frozenset({END}))) == set(letters(letter)) for letter, constraint in sorted(found)
    )


def test_a_sentencepiece_model_of_ones_own_is_held_to_a_grammar() -> None:
    tokenizer = by_sentencepiece()
    size = len(tokenizer)
    matcher = GrammarCompiler(tokenizer).compile(regex_grammar("नa|</s>")).begin(frozenset({tokenizer.eos_token_id}))
    texts = {tokenizer.convert_ids_to_tokens(token) for token in allowed(matcher, size)}
    assert texts >= {"न", "<0xE0>", "<0x3C>"}
    assert not texts & {"</s>", "<s>", "<unk>", "a"}
    for byte in "नa".encode():
        matcher.take(tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>"))
    assert allowed(matcher, size) == {tokenizer.eos_token_id}


@pytest.mark.parametrize("seed", range(4))
def test_the_tiny_base_answers_in_json_that_parses_when_it_is_finished(tiny_base: BaseModel, seed: int) -> None:
    """Before that it is the beginning of such an answer, and may not end."""
    constraint = GrammarCompiler(tiny_base.tokenizer).compile(json_schema_grammar(PERSON))
    prompt = tiny_base.tokenizer("Who?")["input_ids"]
    sampling = Sampling(max_new_tokens=120, do_sample=True, seed=seed, top_p=0.95, constraint=constraint)
    ids = decode(tiny_base, prompt, sampling)
    assert list(json.loads(tiny_base.tokenizer.decode(ids))) == ["name", "age", "tags"]
    matcher = constraint.begin(tiny_base.eos_ids())
    for token in ids:
        now = allowed(matcher)
        assert token in now
        assert not now & tiny_base.eos_ids()
        matcher.take(token)
    assert allowed(matcher) == tiny_base.eos_ids()


@pytest.mark.model
@pytest.mark.parametrize("text", ["It is cold.", "நல்ல நாள்", "今日は🙂"])
def test_a_real_base_answers_in_the_form_that_is_asked_for(small_base: BaseModel, text: str) -> None:
    compiler, ends = GrammarCompiler(small_base.tokenizer), small_base.eos_ids()
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"text": {"const": text}, "mood": {"enum": ["good", "bad"]}},
    }
    schema |= {"required": ["text", "mood"], "additionalProperties": False}
    prompt = small_base.tokenizer(f"Repeat as JSON: {text}\n")["input_ids"]
    sampling = Sampling(max_new_tokens=80, constraint=compiler.compile(json_schema_grammar(schema)))
    found = json.loads(small_base.tokenizer.decode(decode(small_base, prompt, sampling)))
    assert found["text"] == text
    matcher = compiler.compile(regex_grammar(".*")).begin(ends | {7})
    assert allowed(matcher, 49152) >= ends | {7}


@pytest.mark.model
def test_a_real_base_calls_a_tool(small_base: BaseModel) -> None:
    parameters = {
        "type": "object",
        "properties": {"room": {"$ref": "#/$defs/Room"}, "on": {"type": "boolean"}},
        "required": ["room", "on"],
        "additionalProperties": False,
        "$defs": {"Room": {"enum": ["kitchen", "hall"]}},
    }
    grammar = tool_call_grammar([Tool("lamp", parameters), Tool("door", {})], "lamp", parallel=False)
    sampling = Sampling(max_new_tokens=60, constraint=GrammarCompiler(small_base.tokenizer).compile(grammar))
    prompt = small_base.tokenizer("Switch the lamp in the kitchen on.\n")["input_ids"]
    (call,) = parse_tool_calls(small_base.tokenizer.decode(decode(small_base, prompt, sampling)))
    assert call.name == "lamp"
    assert call.arguments["room"] in {"kitchen", "hall"}
