"""The recorded requests of coding agents are understood, whole: nothing that they offer or say gets lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, GenerateRequest, Text, ToolCall, ToolCalled
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_openai_api.routes import blueprint as openai

FOLDER = Path(__file__).parent / "recorded_agents"
FAMILIES = {"codex": openai, "claude_code": anthropic, "opencode": openai, "opencode_title": openai}
SPAWN = "multi_agent_v1__spawn_agent"


def recorded(agent: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{agent}.json").read_text(encoding="utf-8"))
    return found


async def sent(agent: str, *calls: ToolCall, **changes: Any) -> tuple[GenerateRequest, str]:
    """Send an agent's request; return what the service got, and the stream of an answer with these calls."""
    record = recorded(agent)
    body = record["request"] | changes
    service = FakeService(models=[installed(body["model"], capabilities=("completion", "tools", "thinking"))])
    service.outcomes = [Text(text="Hello."), *(ToolCalled(call=call) for call in calls), Done()]
    client: Any = web_app(service, FAMILIES[agent]).test_client()
    answer = await client.post(record["path"], data=json.dumps(body))
    text = await answer.get_data(as_text=True)
    assert answer.status_code == 200, text
    (request,) = [arguments for method, _, arguments in service.calls if method == "generate"]
    return request, text


def offered(request: GenerateRequest) -> set[str]:
    return {tool["function"]["name"] for tool in request.tools}


def said(request: GenerateRequest) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in request.messages]


@pytest.mark.parametrize("agent", FAMILIES)
async def test_every_recording_is_answered_and_its_task_is_the_last_word_of_the_user(agent: str) -> None:
    request, stream = await sent(agent)
    assert "Hello." in stream
    users = [text for role, text in said(request) if role == "user"]
    assert "Fix calc.py so that its test passes." in users[-1]
    assert (request.truncate, request.tool_choice) == (False, "auto")


async def test_codex_is_offered_every_tool_and_its_namespaced_and_freeform_calls_come_back() -> None:
    calls = (ToolCall(name=SPAWN, arguments={}, id="a"), ToolCall(name="apply_patch", arguments={"input": "*"}, id="b"))
    request, stream = await sent("codex", *calls)
    members = sum(len(tool.get("tools", (1,))) for tool in recorded("codex")["request"]["tools"])
    assert len(offered(request)) == members
    assert {"exec_command", "apply_patch", "view_image", SPAWN} <= offered(request)
    assert '"name":"spawn_agent"' in stream
    assert '"namespace":"multi_agent_v1"' in stream
    assert '"type":"custom_tool_call"' in stream
    assert [role for role, _ in said(request)] == ["system", "system", "user", "user"]


async def test_codexs_own_patch_grammar_holds_a_patch_that_must_be_made() -> None:
    request, _ = await sent("codex", tool_choice={"type": "custom", "name": "apply_patch"})
    assert request.tool_choice == "apply_patch"
    assert request.grammar is not None
    assert "begin_patch" in request.grammar


async def test_claude_code_keeps_its_system_message_in_the_middle_and_its_effort() -> None:
    request, stream = await sent("claude_code")
    assert offered(request) == {tool["name"] for tool in recorded("claude_code")["request"]["tools"]}
    roles = [role for role, _ in said(request)]
    assert roles[0] == "system"
    assert "system" in roles[1:]
    assert request.think == "high"
    assert request.options.num_predict == recorded("claude_code")["request"]["max_tokens"]
    assert stream.endswith('{"type":"message_stop"}\n\n')


async def test_opencode_gets_its_tools_and_the_counts_at_the_end() -> None:
    request, stream = await sent("opencode")
    assert len(offered(request)) == len(recorded("opencode")["request"]["tools"])
    assert '"usage":{' in stream
    assert stream.endswith("data: [DONE]\n\n")
