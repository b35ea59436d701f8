"""The fake engine's parts: control words, the exact tokenizer, values for schemas, the plan of a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.testing.fake.faults import PlannedFault
from ollmlx.testing.fake.play import ASIDE, Play
from ollmlx.testing.fake.reply import decode, encode, instance_of, reply_of, reply_to, token_id
from ollmlx.testing.fake.script import Script, directed
from ollmlx.types import GenerateRequest, Message, Text, Thinking, ToolCalled


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


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look"}}


def play(tmp_path: Path, *steps: dict[str, Any]) -> Play:
    file = tmp_path / "play.json"
    file.write_text(json.dumps(steps))
    return Play(file)


def asked(*messages: Message | str, tools: bool = True) -> GenerateRequest:
    turns = [Message(role="user", content=one) if isinstance(one, str) else one for one in messages]
    return GenerateRequest(messages=tuple(turns), tools=(TOOL,) if tools else ())


def test_a_step_without_a_condition_belongs_to_the_next_request_that_offers_tools(tmp_path: Path) -> None:
    steps = play(tmp_path, {"say": "one"}, {"say": "two"})
    assert steps.step(asked("a title, please", tools=False)).say == ASIDE
    assert steps.step(asked("hi")).say == "one"
    assert steps.step(asked("hi")).say == "two"
    assert steps.step(asked("hi")).say == ASIDE


def test_a_condition_is_looked_for_in_what_came_since_the_last_answer(tmp_path: Path) -> None:
    steps = play(tmp_path, {"when": r"(?s)\[image\].*passed", "say": "done"})
    answer = Message(role="assistant", content="I look")
    seen = Message(role="tool", content="see", images=("aGk=",))
    assert steps.step(asked("passed", answer, "not yet")).say == ASIDE
    assert steps.step(asked("fix it", answer, seen, "passed", tools=False)).say == "done"


def test_an_optional_step_is_left_out_for_the_next_one_that_fits(tmp_path: Path) -> None:
    steps = play(
        tmp_path,
        {"when": "page", "optional": True, "say": "read on"},
        {"when": "page", "optional": True, "say": "read on"},
        {"when": "summary", "say": "all in one"},
        {"when": "page", "say": "never"},
    )
    assert steps.step(asked("page 1")).say == "read on"
    assert steps.step(asked("summary")).say == "all in one"
    assert steps.step(asked("summary")).say == ASIDE


def test_a_step_becomes_thoughts_then_text_then_calls_with_ids_of_their_own(tmp_path: Path) -> None:
    call = {"name": "look", "arguments": {"at": "it"}}
    step = play(tmp_path, {"think": "hm", "say": "ok", "calls": [call, call], "cut": True}).step(asked("hi"))
    reply = reply_of(step, 3)
    kinds = [type(event) for event in reply.events()]
    assert kinds == [Thinking, Text, ToolCalled, ToolCalled]
    assert (reply.steps, reply.reason) == (4, "length")
    assert [call.id for call in reply.calls] == ["call_fake_3_0", "call_fake_3_1"]


def test_a_file_that_is_no_play_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="wenn"):
        play(tmp_path, {"wenn": "x"})
