"""Prompts: chat turns, tool choice, and conversations that lose their oldest turns, visibly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.runner.kit import (
    SerialEngine,
    chat_turn,
    cut_tokens,
    fit_messages,
    fit_tokens,
    later_systems_into_user,
    offered_tools,
    template_thinking,
    truncation_target,
)
from ollmlx.types import GenerateRequest, Message, ToolCall

TOOLS = tuple({"type": "function", "function": {"name": name}} for name in ("add", "look"))


def encode(messages: Sequence[Message]) -> list[int]:
    return [ord(letter) for message in messages for letter in message.content]


def turns(*contents: str) -> list[Message]:
    return [
        Message(role="system" if c.startswith("S") else "assistant" if c.startswith("a") else "user", content=c)
        for c in contents
    ]


@pytest.mark.parametrize(
    ("contents", "room", "target", "kept", "dropped"),
    [
        ("Sys uuu aaa u", 10, 5, "Sys uuu aaa u", 0),
        ("Sys u1111 a1111 u2222 a2222 u3", 20, 16, "Sys u2222 a2222 u3", 10),
        ("u1111 a1111 u2", 9, 8, "u2", 10),
        ("u1 a1 u22222222", 5, 4, "u22222222", 4),
        ("u22222222", 5, 4, "u22222222", 0),
    ],
    ids=["it fits", "system stays", "no answer without its question", "the last one stays", "there is one only"],
)
def test_a_long_conversation_loses_its_oldest_turns(
    contents: str, room: int, target: int, kept: str, dropped: int
) -> None:
    fitting = fit_messages(turns(*contents.split()), encode, room, target)
    assert fitting == (encode(turns(*kept.split())), dropped)


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60), st.integers(0, 60))
def test_cut_tokens_keep_the_first_and_the_last(tokens: list[int], target: int, keep: int) -> None:
    cut = cut_tokens(tokens, target, keep)
    assert len(cut) == min(len(tokens), target)
    kept = min(keep, target // 2)
    assert cut[:kept] == tokens[:kept][: len(cut)]
    assert cut[-1:] == tokens[-1:]


@pytest.mark.parametrize(("context", "num_predict", "target"), [(2048, 100, 1948), (2048, -1, 1792), (16, 100, 12)])
def test_room_for_the_answer_is_kept(context: int, num_predict: int, target: int) -> None:
    assert truncation_target(context, num_predict) == target


def test_the_oldest_tokens_go_when_a_prompt_may_be_cut() -> None:
    request = GenerateRequest(prompt="x")
    assert fit_tokens([1, 2, 3], request, 3) == ([1, 2, 3], 0)
    assert fit_tokens([1, 2, 3], request, 2) == ([2, 3], 1)
    with pytest.raises(ContextExceeded, match="3 tokens, and 2 are available"):
        fit_tokens([1, 2, 3], request.model_copy(update={"truncate": False}), 2)


def test_a_conversation_is_a_prompt_of_lines_for_engines_without_a_template() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
    assert SerialEngine().prompt(GenerateRequest(messages=messages)) == "system: Be brief.\nuser: Hi"
    assert SerialEngine().prompt(GenerateRequest(prompt="once")) == "once"


def test_a_turn_has_what_chat_templates_read() -> None:
    call = ToolCall(name="add", arguments={"a": 1}, id="c1")
    assert chat_turn(Message(role="developer", content="Be brief.")) == {"role": "system", "content": "Be brief."}
    assert chat_turn(Message(role="assistant", content="", thinking="hm", tool_calls=(call,))) == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    answer = Message(role="tool", content="2", tool_name="add", tool_call_id="c1")
    assert chat_turn(answer) == {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1"}


@pytest.mark.parametrize(
    ("think", "variables"),
    [
        (None, {}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("max", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_templates_are_told_to_reason(think: bool | str | None, variables: dict[str, object]) -> None:
    assert template_thinking(think) == variables


def test_tool_choice_decides_which_tools_are_offered() -> None:
    assert offered_tools(TOOLS, "auto") == offered_tools(TOOLS, "required") == list(TOOLS)
    assert offered_tools(TOOLS, "none") == []
    assert offered_tools(TOOLS, "look") == [TOOLS[1]]
    with pytest.raises(InvalidRequest, match="not among the tools"):
        offered_tools(TOOLS, "fly")
    with pytest.raises(InvalidRequest, match="needs a function with a name"):
        offered_tools(({"type": "function"},), "look")


def test_later_system_messages_become_part_of_the_users_turns() -> None:
    def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
        return tuple(Message(role=role, content=content) for role, content in pairs)

    for sent, expected in (
        ([("system", "a"), ("user", "b")], [("system", "a"), ("user", "b")]),
        ([("system", "a"), ("system", "b"), ("user", "c")], [("system", "a\n\nb"), ("user", "c")]),
        ([("user", "a"), ("system", "b"), ("user", "c"), ("user", "d")], [("user", "a\n\nb\n\nc\n\nd")]),
        (
            [("system", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("assistant", "e")],
            [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")],
        ),
        ([("user", "a"), ("user", "b")], [("user", "a"), ("user", "b")]),
    ):
        assert later_systems_into_user(turns(*sent)) == turns(*expected)
