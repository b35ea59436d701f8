"""A whole answer that is a call is read as one, in every shape that models write; nothing else is."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.calls.holding import CallWatch, may_become_call
from ollmlx.calls.schema import MOST_STEPS, OfferedTools
from ollmlx.calls.shapes import NoCall, UnreadableCall, find_calls
from ollmlx.errors import InvalidRequest


def tool(name: str, required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TOOLS = OfferedTools(
    [
        tool("get_weather", ("location",), location=TEXT, unit={"enum": ["celsius", "fahrenheit"]}),
        tool("write", ("path", "content"), path=TEXT, content=TEXT),
        tool("add", ("a", "b"), a=NUMBER, b=NUMBER),
        tool("mcp__files.read", ("path",), path=TEXT),
        tool("now"),
    ]
)
BOSTON = [("get_weather", {"location": "Boston"})]
BOTH = [("get_weather", {"location": "Boston"}), ("get_weather", {"location": "Paris"})]
CALL = '{"name": "get_weather", "arguments": {"location": "Boston"}}'
PARIS = '{"name": "get_weather", "arguments": {"location": "Paris"}}'

SHAPES: list[tuple[str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("bare", CALL, BOSTON),
    ("parameters", CALL.replace("arguments", "parameters"), BOSTON),
    ("arguments in a text", '{"name": "get_weather", "arguments": "{\\"location\\": \\"Boston\\"}"}', BOSTON),
    ("doubled outside", '{{"name": "get_weather", "arguments": {"location": "Boston"}}}', BOSTON),
    ("doubled everywhere", '{{"name": "get_weather", "arguments": {{"location": "Boston"}}}}', BOSTON),
    ("doubled at the start", "{" + CALL, BOSTON),
    ("fence", f"```json\n{CALL}\n```", BOSTON),
    ("fence without end", f"```\n{CALL}", BOSTON),
    ("fence of a tag", f"```xml\n<tool_call>\n{CALL}\n</tool_call>\n```", BOSTON),
    ("two fences", f"```json\n{CALL}\n```\n\n```json\n{PARIS}\n```", BOTH),
    ("tag", f"<tool_call>\n{CALL}\n</tool_call>", BOSTON),
    ("tag without end", f"<tool_call>{CALL}", BOSTON),
    ("end without tag", f"{CALL}\n</tool_call>", BOSTON),
    ("the tags of the list of tools", f"<tools>\n{CALL}\n</tools>", BOSTON),
    ("two tags", f"<tool_call>{CALL}</tool_call>\n<tool_call>{PARIS}</tool_call>", BOTH),
    ("one after another", f"{CALL}\n{PARIS}", BOTH),
    ("with semicolons", f"{CALL}; {PARIS}", BOTH),
    ("list", f"[{CALL}, {PARIS}]", BOTH),
    ("Mistral", f"[TOOL_CALLS][{CALL}]", BOSTON),
    ("Mistral, newer", '[TOOL_CALLS]get_weather[ARGS]{"location": "Boston"}', BOSTON),
    ("Llama", f"<|python_tag|>{CALL.replace('arguments', 'parameters')}", BOSTON),
    ("Llama, function", '<function=get_weather>{"location": "Boston"}</function>', BOSTON),
    ("OpenAI", '{"type": "function", "function": {"name": "get_weather", "arguments": {"location": "Boston"}}}', BOSTON),  # noqa: E501
    ("OpenAI, all", '{"tool_calls": [{"id": "1", "function": {"name": "get_weather", "arguments": "{\\"location\\": \\"Boston\\"}"}}]}', BOSTON),  # noqa: E501
    ("function_call", '{"function_call": {"name": "get_weather", "arguments": {"location": "Boston"}}}', BOSTON),
    ("function as a text", '{"function": "get_weather", "parameters": {"location": "Boston"}}', BOSTON),
    ("Anthropic", '{"type": "tool_use", "name": "get_weather", "input": {"location": "Boston"}}', BOSTON),
    ("action", '{"action": "get_weather", "action_input": {"location": "Boston"}}', BOSTON),
    ("name as key", '{"get_weather": {"location": "Boston"}}', BOSTON),
    ("arguments first", '{"arguments": {"location": "Boston"}, "name": "get_weather"}', BOSTON),
    ("namespace", CALL.replace("get_weather", "functions.get_weather"), BOSTON),
    ("Qwen3-Coder", "<tool_call>\n<function=get_weather>\n<parameter=location>\nBoston\n</parameter>\n</function>\n</tool_call>", BOSTON),  # noqa: E501
    ("typed parameters", "<function=add><parameter=a>1</parameter><parameter=b>2</parameter></function>", [("add", {"a": 1, "b": 2})]),  # noqa: E501
    ("invoke", '<function_calls>\n<invoke name="get_weather">\n<parameter name="location">Boston</parameter>\n</invoke>\n</function_calls>', BOSTON),  # noqa: E501
    ("Python", 'get_weather(location="Boston")', BOSTON),
    ("Python, by position", "add(1, 2)", [("add", {"a": 1, "b": 2})]),
    ("Python, list", '[get_weather(location="Boston"), get_weather(location="Paris")]', BOTH),
    ("Python, lines", 'get_weather(location="Boston")\nget_weather(location="Paris")', BOTH),
    ("Gemma", '```tool_code\nprint(get_weather(location="Boston"))\n```', BOSTON),
    ("Python's quotes", "{'name': 'get_weather', 'arguments': {'location': 'Boston'}}", BOSTON),
    ("missing brackets", CALL[:-1], BOSTON),
    ("missing brackets in tags", f"<tool_call>{CALL[:-2]}</tool_call>", BOSTON),
    ("a bracket too many", CALL + "}", BOSTON),
    ("comma at the end", CALL.replace("}}", ",}}"), BOSTON),
    ("line break in a text", '{"name": "write", "arguments": {"path": "a", "content": "x\ny"}}', [("write", {"path": "a", "content": "x\ny"})]),  # noqa: E501
    ("unknown escape", '{"name": "write", "arguments": {"path": "a", "content": "it\\\'s \\d"}}', [("write", {"path": "a", "content": "it's \\d"})]),  # noqa: E501
    ("brackets in a text", '{"name": "write", "arguments": {"path": "a", "content": "}}{{\\""}}', [("write", {"path": "a", "content": '}}{{"'})]),  # noqa: E501
    ("dots in a name", '{"name": "mcp__files.read", "arguments": {"path": "a"}}', [("mcp__files.read", {"path": "a"})]),
    ("no arguments", '{"name": "now"}', [("now", {})]),
    ("no arguments, Python", "now()", [("now", {})]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "calls"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_a_call_is_read_in_every_shape(text: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    found = find_calls(text, TOOLS)
    assert [(call.name, call.arguments) for call in found] == calls
    assert len({call.id for call in found}) == len(calls)


@pytest.mark.parametrize("text", [shape[1] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_a_call_is_held_back_to_its_end_however_it_is_cut(text: str) -> None:
    for size in (1, 3, 7, len(text)):
        watch = CallWatch(TOOLS)
        assert all(watch.feed(text[at : at + size]) for at in range(0, len(text), size)), size


TEXTS = [
    "",
    "The weather in Boston is fine.",
    "get_weather is a function of one argument.",
    "get_weather(location) returns the weather.",
    "now is the time",
    '{"location": "Boston"}',
    '{"name": "Ada", "arguments": {"location": "Boston"}}',
    '{"name": "get_weather", "colour": "red"}',
    '{"name": "get_weather"}',
    "[1, 2, 3]",
    '["get_weather"]',
    "```python\ndef get_weather(location):\n    return 1\n```",
    "```sh\nls\n```",
    f"{CALL}\n\nThis is what a call looks like.",
    f"Here is the call:\n{CALL}",
    f'[{CALL}, "and some text"]',
    "add(x, y)",
    "import os\nadd(1, 2)",
    "<b>bold</b>",
    '{"type": "object", "properties": {}}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_another_text_stays_a_text(text: str) -> None:
    with pytest.raises(NoCall):
        find_calls(text, TOOLS)


PROSE = {
    "The weather": 1,
    '{"location": "Boston"}': 4,
    '{"name": "Ada"}': 11,
    '{"type": "object"}': 12,
    "```sh\nls": 4,
    "get_weather is": 13,
    "[1, 2]": 2,
    f"{CALL}\n\nThis is": len(CALL) + 4,
}


@pytest.mark.parametrize(("text", "most"), PROSE.items())
def test_a_text_is_passed_on_as_soon_as_it_cannot_be_a_call(text: str, most: int) -> None:
    watch = CallWatch(TOOLS)
    held = next(at for at, char in enumerate(text, 1) if not watch.feed(char))
    assert held <= most


BROKEN = {
    '{"name": "write", "arguments": {"path": "a", "content": "x': "it ends inside a text",
    '{"name": "write", "arguments": {"path": "a",': "it ends in the middle of an object",
    '<tool_call>{"name": "write", "arguments": {"path" "a"}}</tool_call>': "is not valid JSON",
    '{"name": "add", "arguments": {"a": 1]}}': "the wrong bracket",
    '{"name": "add", "arguments": {"a": NaN, "b": 1}}': "NaN",
    '{"name": "add", "arguments": [1, 2]}': "the arguments are no object",
    '{"name": "add", "arguments": {"a": 1}}': "'b' is a required property",
    '{"name": "add", "arguments": {"a": "x", "b": 1}}': "a: 'x' is not of type 'integer'",
    "<function=write><parameter=path>a</parameter><parameter=content>x": "a parameter is not closed",
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.items())
def test_a_raw_call_is_told_from_a_text(text: str, reason: str) -> None:
    with pytest.raises(UnreadableCall, match=f".*{reason}"):
        find_calls(text, TOOLS)


@given(st.text(alphabet="{}[]\"'<>=/\\`():,; \nabdegnortuw_|1", max_size=60) | st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    for begin in ("", '{"name": "add", "arguments": ', "<tool_call>", "add("):
        may_become_call(begin + text, TOOLS)
        with contextlib.suppress(NoCall, UnreadableCall):
            find_calls(begin + text, TOOLS)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "add(" * 100_000, "{{" * 50_000 + "}}" * 50_000])
def test_deeply_nested_texts_are_refused(text: str) -> None:
    with pytest.raises((NoCall, UnreadableCall)):
        find_calls(text, TOOLS)


# -- schemas that clients send ---------------------------------------------------------------------------------------


def offered(parameters: Any, **more: Any) -> OfferedTools:
    return OfferedTools([{"function": {"name": "f", "parameters": parameters, **more}}])


def test_a_schema_that_explodes_is_given_up() -> None:
    doubling = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(60)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**doubling, "d60": {"type": "object"}}}
    assert MOST_STEPS < 2**60
    assert "too complex" in (offered(schema).fault("f", {}) or "")


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#"}, {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}],
    ids=["itself", "a circle"],
)
def test_a_schema_that_refers_to_itself_is_given_up(schema: dict[str, Any]) -> None:
    assert "too complex" in (offered(schema).fault("f", {}) or "")


def test_nothing_is_fetched_for_a_schema() -> None:
    fault = offered({"$ref": "http://127.0.0.1:9/schema.json"}).fault("f", {})
    assert fault is not None
    assert "which it does not hold" in fault


def test_a_pattern_is_not_run() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}
    assert offered(schema).fault("f", {"a": "a" * 40 + "!"}) is None


@pytest.mark.parametrize("schema", [{"type": "wrong"}, {"properties": 5}, {"required": "a"}, {"enum": 1}])
def test_a_schema_that_is_none_checks_nothing_and_is_refused_for_strict_tools(schema: dict[str, Any]) -> None:
    assert offered(schema).fault("f", {"a": 1}) is None
    offered(schema).check_strict()
    with pytest.raises(InvalidRequest, match="the parameters of 'f' are no JSON schema"):
        offered(schema, strict=True).check_strict()


@pytest.mark.parametrize("tools", [[{}], [{"function": 1}], [{"function": {"name": 3}}], [{"function": {"name": ""}}]])
def test_malformed_tools_offer_nothing(tools: list[dict[str, Any]]) -> None:
    assert not OfferedTools(tools)
