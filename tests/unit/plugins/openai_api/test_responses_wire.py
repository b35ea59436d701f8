"""The responses API: the translation of items into requests, and numbers of any size."""

from __future__ import annotations

import logging
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Capability, Done, GenerateRequest, ToolCall, ToolCalled
from ollmlx_openai_api.responses_request import ResponsesRequest
from ollmlx_openai_api.routes import blueprint


def read(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": "hi", **fields})


def test_text_and_instructions_become_two_turns() -> None:
    request = read(instructions="Be brief.").to_vocabulary()
    assert [(turn.role, turn.content) for turn in request.messages] == [("system", "Be brief."), ("user", "hi")]


def test_items_become_the_turns_they_belong_to() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "d", "name": "mul", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
    ]
    turns = read(input=items).to_vocabulary().messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert (turns[1].thinking, [call.name for call in turns[1].tool_calls]) == ("hm", ["add", "mul"])
    assert (turns[2].tool_name, turns[2].content) == ("add", "2")


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "c"}},
        {"background": True},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": []},
        {"text": {"format": {"type": "json_schema"}}},
    ],
)
def test_references_to_earlier_responses_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields).to_vocabulary()


@pytest.mark.parametrize(
    "echoed",
    [
        {"metadata": {"a": 10**30}},
        {"tools": [{"type": "function", "name": "f", "parameters": {"maxProperties": 10**30}}]},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"maxProperties": 10**30}}}},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_numbers_beyond_64_bits_are_given_back(echoed: dict[str, Any], stream: bool) -> None:
    service = FakeService()
    service.say("hello")
    client: Any = web_app(service, blueprint).test_client()
    answer = await client.post("/v1/responses", json={"model": "tiny", "input": "x", "stream": stream, **echoed})
    assert answer.status_code == 200
    assert orjson.dumps(1e30) in await answer.get_data()


@pytest.mark.parametrize(("capabilities", "think"), [(("completion",), None), (("completion", "thinking"), "high")])
async def test_an_effort_is_only_asked_of_a_model_that_can_think(
    capabilities: tuple[Capability, ...], think: str | None
) -> None:
    service = FakeService(models=[installed("tiny", capabilities=capabilities)])
    service.say("hello")
    client: Any = web_app(service, blueprint).test_client()
    body = {"model": "tiny", "input": "x", "reasoning": {"effort": "high"}}
    assert (await client.post("/v1/responses", json=body)).status_code == 200
    asked = next(request for method, _, request in service.calls if method == "generate")
    assert asked.think == think


USER = {"role": "user", "content": "x"}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
}
FILES = {
    "type": "namespace",
    "name": "mcp__files__",
    "description": "Files.",
    "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}],
}


def translated(**fields: Any) -> GenerateRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": [USER], **fields}).to_vocabulary()


def names(request: GenerateRequest) -> list[str]:
    return [tool["function"]["name"] for tool in request.tools]


async def output(tools: list[dict[str, Any]], *calls: ToolCall) -> list[dict[str, Any]]:
    """The output of a response in which the model makes these calls."""
    service = FakeService()
    service.outcomes = [*(ToolCalled(call=call) for call in calls), Done()]
    client: Any = web_app(service, blueprint).test_client()
    answer = await client.post("/v1/responses", json={"model": "tiny", "input": "x", "tools": tools})
    assert answer.status_code == 200
    return list((await answer.get_json())["output"])


async def test_a_call_of_a_namespaced_tool_comes_back_with_its_namespace() -> None:
    assert names(translated(tools=[FILES])) == ["mcp__files__read"]
    (item,) = await output([FILES], ToolCall(name="mcp__files__read", arguments={"a": 1}, id="c"))
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "read", "mcp__files__")


async def test_tools_whose_flat_names_meet_stay_apart() -> None:
    plain = {"type": "function", "name": "mcp__files__read"}
    tools: list[dict[str, Any]] = [FILES, plain, {**FILES, "name": "mcp__files"}]
    offered = names(translated(tools=tools))
    assert len(set(offered)) == 3
    calls = await output(tools, *(ToolCall(name=name) for name in offered))
    assert [(call["name"], call.get("namespace")) for call in calls] == [
        ("read", "mcp__files__"),
        ("mcp__files__read", None),
        ("read", "mcp__files"),
    ]


async def test_a_freeform_tool_takes_one_text_and_its_call_comes_back_as_text() -> None:
    (tool,) = translated(tools=[PATCH]).tools
    assert list(tool["function"]["parameters"]["properties"]) == ["input"]
    assert 'start: "*** Begin Patch"' in tool["function"]["description"]
    (item,) = await output([PATCH], ToolCall(name="apply_patch", arguments={"input": "*** Begin"}, id="c"))
    assert (item["type"], item["call_id"], item["input"]) == ("custom_tool_call", "c", "*** Begin")


async def test_a_freeform_call_without_its_input_shows_what_the_model_wrote() -> None:
    (item,) = await output([PATCH], ToolCall(name="apply_patch", arguments={"patch": "x"}))
    assert item["input"] == '{"patch":"x"}'


@pytest.mark.parametrize(("written", "words"), [(["ls", "-a"], ["ls", "-a"]), ("ls -a", ["sh", "-c", "ls -a"])])
async def test_a_shell_call_comes_back_as_an_action(written: object, words: list[str]) -> None:
    (item,) = await output([{"type": "local_shell"}], ToolCall(name="local_shell", arguments={"command": written}))
    assert item["type"] == "local_shell_call"
    assert item["action"] == {"type": "exec", "command": words, "env": {}}


def test_calls_of_every_kind_and_their_results_become_turns() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    items = [
        USER,
        {"type": "function_call", "call_id": "a", "name": "read", "namespace": "mcp__files__", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "apply_patch", "input": "*** Begin"},
        {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "one"}, picture]},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "done"},
        {"type": "local_shell_call_output", "call_id": "c", "output": "a.txt"},
    ]
    _, called, *results = translated(input=items, tools=[FILES, PATCH, {"type": "local_shell"}]).messages
    assert [(call.name, call.arguments) for call in called.tool_calls] == [
        ("mcp__files__read", {}),
        ("apply_patch", {"input": "*** Begin"}),
        ("local_shell", {"command": ["ls"]}),
    ]
    assert [(turn.tool_name, turn.content, turn.images) for turn in results] == [
        ("mcp__files__read", "one", ("AAAA",)),
        ("apply_patch", "done", ()),
        ("local_shell", "a.txt", ()),
    ]


def test_what_means_nothing_here_is_passed_over_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    items = [
        USER,
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "AAAA"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "compaction", "encrypted_content": "BBBB"},
        {"type": "of_next_year", "content": 7},
    ]
    with caplog.at_level(logging.INFO):
        request = translated(input=items, tools=[{"type": "web_search", "external_web_access": True}, {"type": "new"}])
    assert [turn.content for turn in request.messages] == ["x"]
    assert request.tools == ()
    assert "web_search_call, compaction, of_next_year" in caplog.text
    assert "web_search, new" in caplog.text
    assert "AAAA" not in caplog.text
    assert "BBBB" not in caplog.text


def test_tools_among_the_items_are_offered_as_well() -> None:
    added = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "late"}]}
    assert names(translated(input=[USER, added], tools=[PATCH])) == ["apply_patch", "late"]


def test_the_other_fields_of_an_agent_are_accepted() -> None:
    parts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]
    request = translated(
        input=[{"type": "message", "role": "developer", "content": parts}, USER],
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"a": "b"},
        store=False,
        parallel_tool_calls=False,
        reasoning={"summary": "auto"},
    )
    assert [(turn.role, turn.content) for turn in request.messages] == [("system", "one\ntwo"), ("user", "x")]
    assert (request.parallel_tool_calls, request.think) == (False, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"name": "f"}]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "namespace", "name": "n", "tools": "x"}]},
        {"tools": [{"type": "namespace", "tools": [{"type": "function", "name": "f"}]}]},
        {"tools": [{"type": "custom"}]},
        {"tools": [{**PATCH, "format": "lark"}]},
        {"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]},
        {"tools": ["web_search"]},
        {"input": [{"type": "custom_tool_call", "call_id": "c", "input": "x"}]},
        {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": {}}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
        {"input": [{"type": 7}]},
        {"input": [{"type": "compaction", "encrypted_content": "x"}]},
    ],
)
def test_what_is_malformed_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, ValidationError)):
        translated(**fields)


def test_allowed_tools_are_the_only_ones_offered_and_a_namespaced_one_can_be_required() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "apply_patch"}]}
    assert names(translated(tools=[PATCH, FILES], tool_choice=choice)) == ["apply_patch"]
    required = translated(tools=[PATCH, FILES], tool_choice={"type": "function", "name": "read"})
    assert required.tool_choice == "mcp__files__read"
    with pytest.raises(InvalidRequest, match="none of the tools"):
        translated(tools=[PATCH], tool_choice={**choice, "tools": [{"type": "function", "name": "other"}]})


@pytest.mark.parametrize(
    ("syntax", "grammar", "told"),
    [
        ("lark", 'start: "a" b\nb: missing\n', '2(4): unknown name: "missing"'),
        ("lark", 'start: "a\n', "1(10): lexer error"),
        ("regex", "(a|b", "unclosed group"),
        ("lark", 'start: "a"\n' + " " * 70_000, "more than 65536 characters"),
    ],
)
def test_a_grammar_that_does_not_compile_is_refused_with_its_line(syntax: str, grammar: str, told: str) -> None:
    wanted = {"type": "grammar", "syntax": syntax, "definition": grammar}
    with pytest.raises(InvalidRequest) as refused:
        translated(tools=[{**PATCH, "format": wanted}])
    assert told in refused.value.message


def test_codexs_own_grammar_compiles() -> None:
    grammar = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: add_hunk | delete_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
%import common.LF
"""
    wanted = {"type": "grammar", "syntax": "lark", "definition": grammar}
    assert names(translated(tools=[{**PATCH, "format": wanted}])) == ["apply_patch"]


def test_tools_that_a_search_found_are_offered() -> None:
    found = {"type": "tool_search_output", "call_id": "c", "tools": [FILES]}
    assert names(translated(input=[USER, found], tools=[PATCH, {"type": "tool_search"}])) == [
        "apply_patch",
        "mcp__files__read",
    ]


def test_a_freeform_tool_that_must_be_called_brings_its_grammar_to_the_engine() -> None:
    named = translated(tools=[PATCH, FILES], tool_choice={"type": "custom", "name": "apply_patch"})
    assert (named.tool_choice, named.grammar) == ("apply_patch", 'start: "*** Begin Patch"')
    alone = translated(tools=[PATCH], tool_choice="required")
    assert (alone.tool_choice, alone.grammar) == ("apply_patch", 'start: "*** Begin Patch"')
    assert translated(tools=[PATCH, FILES], tool_choice="required").grammar is None
    free = translated(tools=[PATCH], tool_choice="auto")
    assert (free.grammar, free.grammars) == (None, {"apply_patch": 'start: "*** Begin Patch"'})
    assert translated(tools=[{**PATCH, "name": "auto"}], tool_choice="auto").grammar is None


def test_a_regular_expression_becomes_a_grammar() -> None:
    path = {**PATCH, "format": {"type": "grammar", "syntax": "regex", "definition": "a/b[0-9]+"}}
    assert translated(tools=[path], tool_choice="required").grammar == r"start: /a\/b[0-9]+/"


def test_a_grammar_that_needs_too_much_to_compile_is_refused() -> None:
    greedy = {**PATCH, "format": {"type": "grammar", "syntax": "regex", "definition": "(" * 9000 + ")" * 9000}}
    with pytest.raises(InvalidRequest, match="regex grammar"):
        translated(tools=[greedy])
