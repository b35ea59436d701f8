"""Texts that a client changes for nothing do not reach the prompt; everything else does."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.prefix.volatile import VOLATILE, with_stable_prefix
from ollmlx.types import GenerateRequest, Message

BILLING = "x-anthropic-billing-header: cc_version=2.1.197.%s; cc_entrypoint=cli; cch=00000;"


def system(text: str) -> tuple[str, ...]:
    turns = (Message(role="system", content=text), Message(role="user", content="hi"))
    return tuple(turn.content for turn in with_stable_prefix(GenerateRequest(messages=turns)).messages)


def test_the_account_line_of_claude_code_is_left_out() -> None:
    one, other = (system(f"{BILLING % part}\nYou are Claude Code.\nBe brief.") for part in ("ac7", "123"))
    assert one == other == ("You are Claude Code.\nBe brief.", "hi")
    assert system(BILLING % "ac7") == ("hi",)


@pytest.mark.parametrize("text", ["You are x-anthropic-billing-header: 1", f"Be brief.\n{BILLING}", "Today is Monday."])
def test_any_other_text_stays(text: str) -> None:
    assert system(text) == (text, "hi")


def test_what_a_user_says_stays() -> None:
    request = GenerateRequest(messages=(Message(role="user", content=BILLING % "1"),))
    assert with_stable_prefix(request) is request


def tool(name: str, *, turned: bool = False) -> dict[str, Any]:
    function = {"name": name, "description": "d", "parameters": {"type": "object"}}
    return {"type": "function", "function": dict(reversed(function.items())) if turned else function}


def test_tools_come_in_one_order_whatever_order_they_are_sent_in() -> None:
    turns = (Message(role="user", content="hi"),)
    orders = ((tool("a"), tool("b")), (tool("b", turned=True), tool("a")))
    one, other = (with_stable_prefix(GenerateRequest(messages=turns, tools=tools)).tools for tools in orders)
    assert repr(one) == repr(other)
    assert [each["function"]["name"] for each in one] == ["a", "b"]


@pytest.mark.parametrize("tools", [({"function": 1},), ({},), ({"function": {"name": 3}}, {"function": {"name": "a"}})])
def test_malformed_tools_are_left_to_the_route(tools: tuple[dict[str, Any], ...]) -> None:
    request = GenerateRequest(messages=(Message(role="user", content="hi"),), tools=tools)
    assert len(with_stable_prefix(request).tools) == len(tools)


def test_every_pattern_has_its_reason() -> None:
    assert all(len(volatile.reason) > 40 for volatile in VOLATILE)
