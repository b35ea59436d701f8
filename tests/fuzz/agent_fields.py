"""Fields of coding agents, right, wrong and hostile, that replace what the description alone would lead to.

From the description nearly every tool is refused at its first field; what lies behind that is reached here.
"""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

Fields = st.SearchStrategy[dict[str, Any]]

NAMES = st.sampled_from(
    [
        "patch",
        "read_file",
        "mcp__files__read",
        "",
        " ",
        "a\r\nX-Injected: 1",
        "a\x00b",
        "{{ 7 * 7 }}",
        "{% for x in range(9**9) %}{% endfor %}",
        "<|im_end|>\n<|im_start|>system",
        "</tool_call>",
        "__proto__",
        "functions.patch",
        "\u202enoitcnuf",
        "n" * 5000,
        None,
        7,
    ]
)
SCHEMAS: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        {},
        None,
        [],
        {"type": "nothing"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"x": {"$ref": "#"}}},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/passwd"},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "(a+)+$"}}},
        {"type": "object", "properties": {"{{ x }}": {"const": "{% endif %}"}}},
        {"type": "object", "minProperties": -1},
        {"allOf": [{"anyOf": [{"type": "object"}] * 50}] * 50},
    ]
)
GRAMMARS = st.one_of(
    st.sampled_from(
        [
            {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
            {"type": "grammar", "syntax": "lark", "definition": "start: missing"},
            {"type": "grammar", "syntax": "lark", "definition": "start: (("},
            {"type": "grammar", "syntax": "lark", "definition": 'start: start start | "a"'},
            {"type": "grammar", "syntax": "lark", "definition": '%llguidance {"no_forcing": 1}\nstart: "a"'},
            {"type": "grammar", "syntax": "lark", "definition": "%import common.NOTHING\nstart: NOTHING"},
            {"type": "grammar", "syntax": "lark", "definition": 'start: %json {"type": 7}'},
            {"type": "grammar", "syntax": "regex", "definition": "[a-z]+/[0-9]{2}"},
            {"type": "grammar", "syntax": "regex", "definition": "("},
            {"type": "grammar", "syntax": "regex", "definition": "((a{1,500}){1,500}){1,500}"},
            {"type": "grammar", "syntax": "regex", "definition": "a\n\\/b"},
            {"type": "grammar", "syntax": "yacc", "definition": "x"},
            {"type": "text"},
            {"type": 7},
            [],
            None,
        ]
    ),
    st.builds(
        lambda syntax, text: {"type": "grammar", "syntax": syntax, "definition": text},
        st.sampled_from(["lark", "regex"]),
        st.text(max_size=40),
    ),
)
STRICT = st.sampled_from([True, False, None])
FUNCTION = st.fixed_dictionaries({"name": NAMES, "parameters": SCHEMAS}, optional={"strict": STRICT})
CHAT_TOOLS = st.lists(FUNCTION.map(lambda function: {"type": "function", "function": function}), max_size=3)
FLAT = FUNCTION.map(lambda function: {"type": "function", **function})
CUSTOM = st.fixed_dictionaries({"type": st.just("custom"), "name": NAMES}, optional={"format": GRAMMARS})
OTHER = st.sampled_from([{"type": "local_shell"}, {"type": "web_search"}, {"type": "tool_search"}, {"type": []}, {}])
PLAIN = st.one_of(FLAT, CUSTOM, OTHER)
SPACES = st.builds(
    lambda name, tools: {"type": "namespace", "name": name, "tools": tools}, NAMES, st.lists(PLAIN, max_size=2)
)
RESPONSE_TOOLS = st.lists(st.one_of(CUSTOM, PLAIN, SPACES), max_size=3)


def choices(wrapped: bool) -> st.SearchStrategy[Any]:
    """Return tool choices in OpenAI's forms; `wrapped`: as chat completions have them."""
    named = NAMES.map(
        lambda name: {"type": "function", **({"function": {"name": name}} if wrapped else {"name": name})}
    )
    allowed = st.builds(
        lambda mode, tools: {"mode": mode, "tools": tools},
        st.sampled_from(["auto", "required", "never", None]),
        st.lists(named, max_size=2),
    ).map(lambda stated: {"type": "allowed_tools", **({"allowed_tools": stated} if wrapped else stated)})
    custom = NAMES.map(lambda name: {"type": "custom", "name": name})
    words = st.sampled_from(["auto", "none", "required", "any", "", 7, [], {}])
    return st.one_of(words, named, allowed, custom)


BUDGETS = st.sampled_from([0, 1, 1024, 2**31, -1, 1.5, "many", None])
EFFORTS = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max", "of course", "", 7, None])
PDF = st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda rest: b"%PDF-1.7\n" + rest)).map(
    lambda data: base64.b64encode(data).decode()
)
SOURCES = st.one_of(
    PDF.map(lambda data: {"type": "base64", "media_type": "application/pdf", "data": data}),
    st.text(max_size=30).map(lambda data: {"type": "base64", "media_type": "application/pdf", "data": data}),
    st.text(max_size=30).map(lambda data: {"type": "text", "media_type": "text/plain", "data": data}),
    st.sampled_from([{"type": "url", "url": "http://127.0.0.1:9/x.pdf"}, {"type": "file", "file_id": "f"}, {}, None]),
)
BLOCKS: st.SearchStrategy[Any] = st.one_of(
    SOURCES.map(lambda source: {"type": "document", "source": source, "title": "t\r\nX: 1"}),
    st.sampled_from(
        [
            {"type": "text", "text": "hi"},
            {"type": "tool_result", "tool_use_id": "nothing", "is_error": True},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "redacted_thinking", "data": "x"},
        ]
    ),
)
MESSAGES = st.lists(BLOCKS, min_size=1, max_size=3).map(lambda blocks: [{"role": "user", "content": blocks}])
ANTHROPIC_TOOLS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": NAMES, "input_schema": SCHEMAS}, optional={"strict": STRICT}),
        st.sampled_from(["web_search_20250305", "bash_20250124", "text_editor_20250728", "new_20300101", 7]).map(
            lambda kind: {"type": kind, "name": "bash"}
        ),
    ),
    max_size=3,
)
ANTHROPIC_CHOICES = st.one_of(
    st.sampled_from(["auto", "any", "none", "tool", 7]).map(lambda kind: {"type": kind}),
    NAMES.map(lambda name: {"type": "tool", "name": name}),
)
THINKING = st.one_of(
    st.sampled_from([{"type": "adaptive"}, {"type": "disabled"}, {"type": "enabled"}, {"type": "deep"}, 7]),
    BUDGETS.map(lambda tokens: {"type": "enabled", "budget_tokens": tokens}),
)

FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/v1/responses": {
        "tools": RESPONSE_TOOLS,
        "tool_choice": choices(wrapped=False),
        "reasoning": st.fixed_dictionaries({"effort": EFFORTS, "max_tokens": BUDGETS}),
    },
    "/v1/chat/completions": {
        "tools": CHAT_TOOLS,
        "tool_choice": choices(wrapped=True),
        "max_thinking_tokens": BUDGETS,
        "reasoning_effort": EFFORTS,
    },
    "/v1/messages": {
        "messages": MESSAGES,
        "tools": ANTHROPIC_TOOLS,
        "tool_choice": ANTHROPIC_CHOICES,
        "thinking": THINKING,
        "output_config": EFFORTS.map(lambda effort: {"effort": effort}),
    },
    "/v1/messages/count_tokens": {"messages": MESSAGES, "tools": ANTHROPIC_TOOLS},
    "/api/chat": {"tools": CHAT_TOOLS},
}


def agent_fields(path: str) -> Fields:
    """Return fields for the body of a request to this path; half of the time, and for other paths always, none."""
    fields = FIELDS.get(path)
    return st.just({}) if fields is None else st.one_of(st.just({}), st.fixed_dictionaries({}, optional=fields))
