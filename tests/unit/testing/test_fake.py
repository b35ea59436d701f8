"""The fake engine's parts: control words, the exact tokenizer, values for schemas, the plan of a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest
from ollmlx.testing.fake.faults import PlannedFault
from ollmlx.testing.fake.reply import decode, encode, instance_of, reply_to, token_id
from ollmlx.testing.fake.script import Script, directed
from ollmlx.types import GenerateRequest, Text, Thinking, ToolCalled


@given(st.text())
def test_tokens_are_exact_both_ways(text: str) -> None:
    ids = encode(text)
    assert all(0 < number < 2**53 for number in ids)
    assert decode(ids) == text


def test_an_unknown_id_is_a_replacement_character() -> None:
    assert decode([0, -1, 2**70, token_id("a")]) == "\ufffd\ufffd\ufffda"
    assert encode("\ud800"), "half a character has an id, too"


def test_control_words_are_taken_out_of_the_prompt_and_laid_over_the_script() -> None:
    script, text = directed(Script(rate=3), "fake:say=a%20b hello fake:prefill=7 world")
    assert text == "hello world"
    assert (script.say, script.prefill, script.rate) == ("a b", 7, 3)
    assert directed(Script(), "nofake:say=x") == (Script(), "nofake:say=x")


@pytest.mark.parametrize("word", ["wrong_answers", "lie"])
def test_wrong_answers_have_a_name_of_api_1_too(word: str) -> None:
    script, _ = directed(Script(), f"fake:{word}=cache hello")
    assert script.wrong_answers == "cache"
    assert Script.model_validate(script.model_dump(exclude_unset=True)) == script


@pytest.mark.parametrize("word", ["fake:sya=x", "fake:rate=fast", "fake:tokens=-1"])
def test_a_mistyped_control_word_is_an_error(word: str) -> None:
    with pytest.raises(InvalidRequest, match="control word"):
        directed(Script(), word)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"minimum": 4, "type": "integer"}}, "required": ["a"]}, {"a": 4}),
        ({"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}, ["xxx", "xxx"]),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": None}, None),
        ({"type": ["null", "string"]}, None),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"$defs": {"t": {"type": "number"}}, "type": "object", "properties": {"v": {"$ref": "#/$defs/t"}}}, {"v": 1}),
    ],
)
def test_a_made_up_value_satisfies_its_schema(schema: dict[str, object], value: object) -> None:
    assert instance_of(schema) == value


def test_a_type_that_does_not_exist_has_no_value() -> None:
    with pytest.raises(InvalidRequest, match="Invalid type: strange"):
        instance_of({"type": "strange"})


def test_a_reply_thinks_when_asked_and_calls_the_tool_it_must() -> None:
    events = list(reply_to(GenerateRequest(prompt="x", think=True), Script(think="so"), "x").events())
    assert events == [Thinking(text="so"), Text(text="x")]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    must = GenerateRequest(prompt="x", tools=(tool,), tool_choice="f")
    call = next(reply_to(must, Script(), "x").events())
    assert isinstance(call, ToolCalled)
    assert call.call.name == "f"
    may = must.model_copy(update={"tool_choice": "auto"})
    assert list(reply_to(may, Script(), "x").events()) == [Text(text="x")]


def test_an_unknown_fault_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="there are abort, bad_model"):
        PlannedFault("exlpode")
