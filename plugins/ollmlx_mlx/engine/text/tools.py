"""Tool calls: choosing tools and forcing a call on the way in, reading calls on the way out.

mlx-lm's parsers read the tagged formats. Added here: the harmony format, calls without markers, ids and shapes for all.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Sequence
from typing import Any, Final

from ollmlx.types import Tool, ToolCall

_HARMONY: Final = re.compile(r"^\s*(?:functions\.)?([\w.-]+).*?<\|message\|>(.*)$", re.DOTALL)
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits


def forced_call_format(tokenizer: Any, *, harmony: bool) -> tuple[str, str]:
    """Return the text before a call that must be made, and the key of its arguments.

    The call is JSON also for models that write calls otherwise: the grammar holds them to it, and the daemon reads it.
    """
    if harmony:
        return "<|channel|>final<|message|>", "arguments"
    parser = tokenizer.tool_parser
    if parser is None:
        return "", "parameters"
    is_json = str(getattr(parser, "__module__", "")).endswith(".json_tools")
    return f"{tokenizer.tool_call_start}\n" if is_json else "", "arguments"


def tool_id() -> str:
    """Return a fresh id, as Ollama writes them: `call_` and eight letters or digits."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def tool_reader(tokenizer: Any, tools: Sequence[Tool], *, harmony: bool = False) -> Callable[[str], list[ToolCall]]:
    """Return the function that reads the text between two tool markers for this model and these tools."""

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
