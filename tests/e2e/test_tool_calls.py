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


WRONG, RIGHT = "*** Begin\nno", "*** Begin\n*** End"
PLAY = [
    {"say": "I patch it.", "calls": [{"name": "patch", "arguments": {"input": WRONG}}]},
    {"calls": [{"name": "patch", "arguments": {"input": RIGHT}}]},
]
LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin\\n*** End"'}


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose model repeats the last message: it writes the calls that the tests tell it."""
    folder = tmp_path_factory.mktemp("calls")
    play = folder / "play.json"
    play.write_text(json.dumps(PLAY), encoding="utf-8")
    with Daemon(folder / "daemon", fakes={"parrot": {}, "actor": {"play": str(play)}}) as started:
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


def test_a_freeform_call_that_breaks_its_grammar_is_written_again(parrot: Daemon) -> None:
    """Whatever the model writes: the client sees the second text only."""
    tool = {"type": "custom", "name": "patch", "format": LARK}
    asked = {"model": "actor", "input": "Patch it.", "tools": [tool]}
    answer = parrot.post("/v1/responses", asked)
    said, called = answer.json()["output"]
    assert (said["content"][0]["text"], called["type"], called["input"]) == ("I patch it.", "custom_tool_call", RIGHT)
    assert "patch breaks the tool's grammar" in parrot.log_text
