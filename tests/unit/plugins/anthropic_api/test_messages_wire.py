"""The translation of Anthropic's bodies into requests."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest
from ollmlx_anthropic_api.messages_request import MessagesRequest

USER = {"role": "user", "content": "hi"}


def read(*, can_think: bool = True, **fields: Any) -> GenerateRequest:
    body = {"model": "m", "max_tokens": 9, "messages": [USER], **fields}
    return MessagesRequest.model_validate(body).to_vocabulary(can_think=can_think)


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 0}, {"max_tokens": None}, {"messages": []}, {"model": ""}, {"temperature": 2}]
)
def test_what_anthropic_requires_is_required(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)


def test_blocks_become_turns_with_tool_results_before_the_text() -> None:
    request = read(
        system=[{"type": "text", "text": "rules"}],
        messages=[
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
    )
    assert [turn.role for turn in request.messages] == ["system", "user", "assistant", "tool", "user"]
    assert request.messages[2].thinking == "hm"
    assert (request.messages[3].tool_name, request.messages[3].content) == ("add", "2")


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice", "required"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice", "f"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "parallel_tool_calls", False),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, "think", True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "think", "low"),
        ({"thinking": {"type": "disabled"}}, "think", False),
        ({}, "think", False),
        ({"messages": [USER, {"role": "assistant", "content": "The answer is"}]}, "continue_last", True),
    ],
)
def test_fields_are_translated(fields: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(read(**fields), attribute) == value


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    assert read(can_think=False, thinking={"type": "enabled"}).think is None


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
        {"tool_choice": {"type": "tool"}},
    ],
)
def test_an_unsupported_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields)
