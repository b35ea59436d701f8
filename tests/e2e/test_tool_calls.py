"""A model that writes a call as plain JSON calls the tool in every dialect, in streams and whole answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e

SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": SCHEMA}
CALL = '{{"name": "get_weather", "arguments": {"location": "Boston"}}}'
BROKEN = '{"name": "get_weather", "arguments": {"location": "Bos'


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose model repeats the last message: it writes the calls that the tests tell it."""
    with Daemon(tmp_path_factory.mktemp("calls"), fakes={"parrot": {}}) as started:
        yield started


def body(route: str, said: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": said}]
    match route:
        case "/v1/responses":
            return {"input": said, "tools": [{"type": "function", **FUNCTION}]}
        case "/v1/messages":
            tool = {"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}
            return {"messages": turns, "tools": [tool], "max_tokens": 100}
    return {"messages": turns, "tools": [{"type": "function", "function": FUNCTION}]}


ROUTES = {
    "/api/chat": ('"tool_calls"', '"done_reason":"length"'),
    "/v1/chat/completions": ('"finish_reason":"tool_calls"', '"finish_reason":"length"'),
    "/v1/responses": ('"type":"function_call"', '"status":"incomplete"'),
    "/v1/messages": ('"stop_reason":"tool_use"', '"stop_reason":"max_tokens"'),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_call_in_another_shape_calls_the_tool(parrot: Daemon, route: str, stream: bool) -> None:
    answer = parrot.post(route, {"model": "parrot", "stream": stream, **body(route, CALL)})
    assert answer.status_code == 200, answer.text
    assert ROUTES[route][0] in answer.text
    assert "get_weather" in answer.text
    assert "{{" not in answer.text.replace(json.dumps(CALL)[1:-1], "")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_broken_call_is_no_quiet_end(parrot: Daemon, route: str, stream: bool) -> None:
    answer = parrot.post(route, {"model": "parrot", "stream": stream, **body(route, BROKEN)})
    assert answer.status_code == 200, answer.text
    assert ROUTES[route][1] in answer.text
    assert "The tool was not called: the call of get_weather is not valid JSON" in answer.text


@pytest.mark.parametrize("route", ROUTES)
def test_a_strict_tool_needs_a_schema(parrot: Daemon, route: str) -> None:
    asked = body(route, "hi")
    (tool,) = asked["tools"]
    function = tool.get("function", tool)
    function["strict"] = True
    function["input_schema" if "input_schema" in function else "parameters"] = {"type": "wrong"}
    answer = parrot.post(route, {"model": "parrot", **asked})
    assert answer.status_code == 400, answer.text
    assert "no JSON schema" in answer.text
