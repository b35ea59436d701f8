"""Plays: which request takes which step, and the answer that a step is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ollmlx.testing.fake.play import ASIDE, Play
from ollmlx.testing.fake.reply import reply_of
from ollmlx.types import GenerateRequest, Message, Text, Thinking, ToolCalled

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
