"""The translation of Anthropic's bodies into requests."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.types import GenerateRequest
from ollmlx_anthropic_api.messages_request import MessagesRequest
from ollmlx_anthropic_api.pdf import pdf_text
from ollmlx_anthropic_api.routes import blueprint

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
        ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "think", "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "think", "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "think", "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}, "output_config": {"effort": "max"}}, "think", "max"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "of next year"}}, "think", True),
        ({"thinking": {"type": "adaptive"}}, "think", True),
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


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "document", "title": "Notes", "source": source}]}]}


@pytest.mark.parametrize(
    "source",
    [
        {"type": "text", "media_type": "text/plain", "data": "grass is green"},
        {"type": "content", "content": [{"type": "text", "text": "grass is green"}]},
        {"type": "content", "content": "grass is green"},
        {"type": "base64", "media_type": "text/plain", "data": "Z3Jhc3MgaXMgZ3JlZW4="},
    ],
)
def test_a_document_is_its_title_and_its_text(source: dict[str, Any]) -> None:
    assert read(**document(source)).messages[0].content == "Notes\ngrass is green"


def test_a_tools_result_has_text_images_and_whether_it_failed() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    said = {"type": "text", "text": "exit 1"}
    result = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [said, picture]}
    (message,) = read(messages=[{"role": "user", "content": [result]}]).messages
    assert (message.role, message.content, message.images) == ("tool", "Error: exit 1", ("AAAA",))


def test_a_system_message_may_stand_in_the_middle() -> None:
    middle = {"role": "system", "content": [{"type": "text", "text": "be quick", "cache_control": {"type": "x"}}]}
    turns = read(system="rules", messages=[USER, {"role": "assistant", "content": "yes"}, middle, USER]).messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "system", "user"]


def test_what_means_nothing_here_is_passed_over_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    blocks = [
        {"type": "redacted_thinking", "data": "AAAA"},
        {"type": "thinking", "thinking": "hm", "signature": "BBBB"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "web_search_tool_result_error"}},
        {"type": "text", "text": "done"},
    ]
    with caplog.at_level(logging.INFO):
        request = read(
            messages=[USER, {"role": "assistant", "content": blocks}, USER],
            tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}],
            context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        )
    assert (request.messages[1].content, request.messages[1].thinking, request.tools) == ("done", "hm", ())
    assert "server_tool_use, web_search_tool_result" in caplog.text
    assert "web_search_20250305" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        document({"type": "base64", "media_type": "application/pdf", "data": "%%%"}),
        document({"type": "base64", "media_type": "text/plain", "data": "%%%"}),
        document({"type": "url", "url": "http://x/"}),
        document({"type": "text"}),
        {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]},
        {"tool_choice": {"type": "tool"}},
    ],
)
def test_an_unsupported_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields)


def test_tools_that_the_client_runs_are_offered_with_their_schema() -> None:
    tools = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 9},
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        {"name": "own", "input_schema": {"type": "object"}, "defer_loading": True, "strict": True},
    ]
    functions = [tool["function"] for tool in read(messages=[USER], tools=tools).tools]
    assert [function["name"] for function in functions] == ["bash", "str_replace_based_edit_tool", "own"]
    assert "command" in functions[0]["parameters"]["properties"]
    assert functions[1]["parameters"]["required"] == ["command", "path"]
    assert functions[2]["strict"]


def test_a_budget_for_thoughts_is_passed_on() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    assert read(messages=[USER], thinking=thinking).max_thinking_tokens == 2000


def pdf(text: str) -> bytes:
    """A file of one page with one line of text."""
    content = f"BT /F1 12 Tf 10 10 Td ({text}) Tj ET" if text else ""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 50] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    made, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(made)
    made += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return (made + f"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n").encode()


async def test_the_text_of_a_document_is_in_the_prompt() -> None:
    service = FakeService()
    service.say("ok")
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(pdf("Hello PDF")).decode()}
    content = [{"type": "document", "title": "Paper", "source": source}, {"type": "text", "text": "Sum it up."}]
    body = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    client: Any = web_app(service, blueprint).test_client()
    answer = await client.post("/v1/messages", json=body)
    assert answer.status_code == 200, await answer.get_data(as_text=True)
    ((_, _, request),) = service.calls
    assert request.messages[0].content == "Paper\nHello PDF\nSum it up."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no PDF at all", "cannot be read"),
        (pdf("Hello PDF")[:200], "cannot be read"),
        (pdf(""), "has no text"),
        (b"", "cannot be read"),
    ],
    ids=["another file", "cut", "no text", "empty"],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        pdf_text(data)
