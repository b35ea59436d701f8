"""Making a model call a tool when the request says that it must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ollmlx.runner.kit import tool_function
from ollmlx.types import Tool

Schema = dict[str, Any]


def call_schema(tools: Sequence[Tool], arguments: str) -> Schema:
    """The JSON schema of one call of one of these tools; `arguments` is the key that this format uses for them."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool_function(tool)["name"]},
                arguments: tool_function(tool).get("parameters") or {"type": "object"},
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
