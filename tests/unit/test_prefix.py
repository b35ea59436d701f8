"""A missed prefix is explained: the first difference from the client's last conversation."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.prefix import MOST_CLIENTS, VOLATILE, RecentConversations, with_stable_prefix
from ollmlx.types import GenerateRequest, Message

RULES = "You are a coding agent. " * 200


def asked(system: str, *turns: str, tools: tuple[dict[str, Any], ...] = ()) -> GenerateRequest:
    roles = ("user", "assistant")
    messages = [Message(role=roles[index % 2], content=text) for index, text in enumerate(turns)]
    return GenerateRequest(messages=(Message(role="system", content=system), *messages), tools=tools)


def compare(recent: RecentConversations, request: GenerateRequest, cached: int, client: str = "me") -> str | None:
    found = recent.compare(client, "tiny", request, cached, 1000)
    return None if found is None else f"{found} {found.words}"


def test_a_changed_line_in_the_system_prompt_is_found() -> None:
    recent = RecentConversations()
    assert compare(recent, asked(f"version 2.1.ac7; {RULES}", "fix it"), 0) is None
    told = compare(recent, asked(f"version 2.1.123; {RULES}", "fix it"), 3)
    assert told is not None
    assert told.startswith("the system prompt changes near token 2 from 'version 2.1.ac7; You are")
    assert "to 'version 2.1.123; You are" in told
    assert str(recent.misses["tiny"]) == "the system prompt changes near token 2"


def test_words_are_shown_in_ascii_on_one_line() -> None:
    recent = RecentConversations()
    compare(recent, asked(f"ä\r\nx: 1 {RULES}", "fix it"), 0)
    told = compare(recent, asked(f"ö\r\nx: 1 {RULES}", "fix it"), 0) or ""
    assert told.isascii()
    assert told.isprintable()


def test_changed_tools_are_found() -> None:
    recent = RecentConversations()
    tools = [{"function": {"name": f"tool_{number}", "description": "d" * 50}} for number in range(20)]
    compare(recent, asked(RULES, "fix it", tools=tuple(tools)), 0)
    assert "the list of tools changes" in (compare(recent, asked(RULES, "fix it", tools=tuple(tools[1:])), 400) or "")


def test_a_message_that_was_changed_later_is_found() -> None:
    recent = RecentConversations()
    turns = ["fix it", "I look.", "The file has " + "words " * 100, "Done."]
    compare(recent, asked("Be brief.", *turns), 0)
    turns[2] = turns[2].replace("The file", "A file")
    assert "message 3 changes" in (compare(recent, asked("Be brief.", *turns, "More."), 10) or "")


def test_nothing_is_told_of_a_hit_a_conversation_that_goes_on_and_a_new_one() -> None:
    recent = RecentConversations()
    compare(recent, asked(f"1 {RULES}", "fix it"), 0)
    assert compare(recent, asked(f"1 {RULES}", "fix it", "Done.", "thanks"), 0) is None  # evicted
    assert compare(recent, asked(f"1 {RULES}", "another question"), 900) is None
    assert compare(recent, asked("Translate into French.", "fix it"), 0) is None
    assert compare(recent, asked(f"2 {RULES}", "fix it"), 950) is None  # a hit
    assert recent.misses == {}


def test_clients_are_not_compared_with_each_other() -> None:
    recent = RecentConversations()
    compare(recent, asked(f"secret {RULES}", "fix it"), 0)
    assert compare(recent, asked(f"sEcret {RULES}", "fix it"), 0, client="other") is None


def test_old_clients_are_forgotten() -> None:
    recent = RecentConversations()
    compare(recent, asked(f"1 {RULES}", "fix it"), 0)
    for number in range(MOST_CLIENTS):
        compare(recent, asked("hello", "x"), 0, client=str(number))
    assert compare(recent, asked(f"2 {RULES}", "fix it"), 0) is None


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
