"""Making a model call a tool when the request says that it must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ollmlx.errors import InvalidRequest
from ollmlx.types import Tool

Schema = dict[str, Any]


def chosen(tools: Sequence[Tool], choice: str) -> list[Tool]:
    """The tools the model may call. Raises InvalidRequest when the one that is named is not there."""
    if choice in ("auto", "none", "required"):
        return [] if choice == "none" else list(tools)
    found = [tool for tool in tools if _function(tool).get("name") == choice]
    if not found:
        raise InvalidRequest(f"tool_choice names {choice!r}, which is not among the tools")
    return found


def call_schema(tools: Sequence[Tool], arguments: str) -> Schema:
    """The JSON schema of one call of one of these tools; `arguments` is the key that this format uses for them."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": _function(tool)["name"]},
                arguments: _function(tool).get("parameters") or {"type": "object"},
            },
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def json_call_format(tokenizer: Any) -> tuple[str, str] | None:
    """(text before a call, key of its arguments) of a model that writes calls as JSON; None for other formats."""
    parser = tokenizer.tool_parser
    if parser is None:
        return "", "parameters"
    if str(getattr(parser, "__module__", "")).endswith(".json_tools"):
        return f"{tokenizer.tool_call_start}\n", "arguments"
    return None


def _function(tool: Tool) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("each tool needs a function with a name")
    return function
