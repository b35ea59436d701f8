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

from ollmlx.runner.kit import tool_function
from ollmlx.types import Tool, ToolCall

PYTHON_TAG: Final = "<|python_tag|>"
_HARMONY: Final = re.compile(r"^\s*(?:functions\.)?([\w.-]+).*?<\|message\|>(.*)$", re.DOTALL)
_ID_ALPHABET: Final = string.ascii_lowercase + string.digits

Schema = dict[str, Any]


def call_schema(tools: Sequence[Tool], arguments: str) -> Schema:
    """Return the JSON schema of one call of one of these tools. `arguments`: the key that this format uses for them."""
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
    """Return (text before a call, key of its arguments) if the model writes calls as JSON; None for other formats."""
    parser = tokenizer.tool_parser
    if parser is None:
        return "", "parameters"
    if str(getattr(parser, "__module__", "")).endswith(".json_tools"):
        return f"{tokenizer.tool_call_start}\n", "arguments"
    return None


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


class BareCalls:
    """Holds an answer back that looks like JSON from its first character on; `held` is what it holds."""

    def __init__(self) -> None:
        self.held = ""
        self._open = True

    def feed(self, text: str) -> str:
        """Return the text that is certainly not a call."""
        if not self._open:
            return text
        self.held += text
        start = bare_call(self.held)
        if not start or start[0] in "{[" or PYTHON_TAG.startswith(start):
            return ""
        self._open = False
        text, self.held = self.held, ""
        return text


def bare_call(text: str) -> str:
    """Return the JSON of a call, without what models write before it."""
    return text.strip().removeprefix(PYTHON_TAG).strip()
