"""Tool calls in a model's output: mlx-lm's parsers for the tagged formats, two more here, ids and shapes for all."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Sequence
from typing import Any

from ollmlx.types import Tool, ToolCall

_HARMONY = re.compile(r"^\s*(?:functions\.)?([\w.-]+).*?<\|message\|>(.*)$", re.DOTALL)
_ID_ALPHABET = string.ascii_lowercase + string.digits


def tool_id() -> str:
    """A fresh id, as Ollama writes them: `call_` and eight letters or digits."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def reader(tokenizer: Any, tools: Sequence[Tool], *, harmony: bool = False) -> Callable[[str], list[ToolCall]]:
    """The function that reads the text between two tool markers for this model and these tools."""

    def read(text: str) -> list[ToolCall]:
        if harmony:
            return [_call(_read_harmony(text))]
        if tokenizer.tool_parser is None:
            return _calls(json.loads(text))
        try:
            parsed = tokenizer.tool_parser(text, list(tools))
        except (KeyError, TypeError, AttributeError, SyntaxError, IndexError) as error:
            raise ValueError(f"no tool call: {error}") from error
        return _calls(parsed)

    return read


def _read_harmony(text: str) -> dict[str, Any]:
    found = _HARMONY.match(text)
    if found is None:
        raise ValueError("no tool call")
    return {"name": found.group(1), "arguments": json.loads(found.group(2) or "{}")}


def _calls(parsed: Any) -> list[ToolCall]:
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls:
        raise ValueError("no tool call")
    return [_call(call) for call in calls]


def _call(parsed: Any) -> ToolCall:
    if not isinstance(parsed, dict) or not isinstance(parsed.get("name"), str):
        raise ValueError("a tool call needs a name")  # noqa: TRY004 - one kind for "not a call"
    arguments = parsed.get("arguments", parsed.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a tool call must be an object")  # noqa: TRY004 - as above
    given = parsed.get("id")
    return ToolCall(name=parsed["name"], arguments=arguments, id=given if isinstance(given, str) else tool_id())
