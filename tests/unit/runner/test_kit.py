"""Prompts: chat turns, tool choice, and conversations that lose their oldest turns, visibly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.runner.kit import (
    RepeatGuard,
    SerialEngine,
    StopFilter,
    chat_turn,
    cut_tokens,
    fit_messages,
    fit_tokens,
    later_systems_into_user,
    offered_tools,
    template_thinking,
    truncation_target,
)
from ollmlx.types import Done, GenerateRequest, Message, Options, Text, ToolCall

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


TEXT = st.text(alphabet="ab<|", max_size=30)
STOPS = st.lists(st.text(alphabet="ab<|", min_size=1, max_size=4), max_size=3)


@given(TEXT, st.lists(st.integers(0, 30), max_size=6), STOPS)
def test_text_ends_right_before_the_first_stop_string_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    filtered = StopFilter(stops)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(filtered.feed(text[a:b]) for a, b in pairwise(edges)) + filtered.flush()
    assert not any(stop in shown for stop in stops)
    if filtered.hit is None:
        assert shown == text
    else:
        assert text.startswith(shown + filtered.hit)


def test_text_that_only_looked_like_a_stop_string_is_shown_as_soon_as_that_is_certain() -> None:
    filtered = StopFilter(["<|end|>", ""])
    assert filtered.feed("so <|e") == "so "
    assert filtered.feed("at") == "<|eat"
    assert filtered.hit is None


@pytest.mark.parametrize(("first", "again"), [((7, "x"), (7, "")), ((7, " x"), (8, "x "))])
def test_a_token_that_comes_more_than_thirty_times_more_is_runaway(
    first: tuple[int, str], again: tuple[int, str]
) -> None:
    def runaway(repetitions: int, *after: tuple[int, str]) -> bool:
        guard = RepeatGuard()
        for token, text in (first, *[again] * repetitions, *after):
            guard.add(token, text)
        return guard.runaway

    assert not runaway(30)
    assert runaway(31)
    assert not runaway(31, (9, "y"))


@pytest.mark.parametrize(
    ("pieces", "options", "text", "reason", "stop", "count"),
    [
        (["a", "b"], {}, "ab", "stop", None, 2),
        (["a", "b"], {"num_predict": 1}, "a", "length", None, 1),
        (["a", "b"], {"num_predict": 0}, "", "length", None, 0),
        (["a", "b"], {"num_predict": 2}, "ab", "length", None, 2),
        (["ab", "cd"], {"stop": ("bc",)}, "a", "stop", "bc", 2),
        (["ab", "xd"], {"stop": ("bc",)}, "abxd", "stop", None, 2),
        (["one", " END", " two"], {"stop": ("END", "two")}, "one ", "stop", "END", 2),
        (["a", "b"], {"stop": ("b",), "num_predict": 2}, "a", "stop", "b", 2),
        (["ab"], {"stop": ("abc",)}, "ab", "stop", None, 1),
    ],
)
def test_an_answer_ends_at_a_stop_string_or_the_length_limit(
    pieces: list[str], options: dict[str, object], text: str, reason: str, stop: str | None, count: int
) -> None:
    made = []

    def generate() -> Iterator[str]:
        for piece in pieces:
            made.append(piece)
            yield piece

    request = GenerateRequest(prompt="x", options=Options.model_validate(options))
    *texts, done = SerialEngine().answer(request, generate(), prompt_tokens=1)
    assert all(isinstance(event, Text) and event.text for event in texts)
    assert "".join(event.text for event in texts if isinstance(event, Text)) == text
    assert isinstance(done, Done)
    assert (done.reason, done.stop, done.generated_tokens) == (reason, stop, count)
    assert len(made) == count, "no piece is generated after the end"
