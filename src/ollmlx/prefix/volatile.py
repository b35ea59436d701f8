"""Texts that a client changes with every start, that mean nothing to a model, and that stand before everything else.

One such line makes a prefix cache useless: the prompt differs from its first words on. Left out are only texts that are
no instruction and no information for the model; a date or a list of files is neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ollmlx.types import GenerateRequest, Message, Tool


@dataclass(frozen=True)
class VolatileText:
    """A text at the beginning of a system prompt that is left out, and the reason."""

    pattern: re.Pattern[str]
    reason: str


VOLATILE: Final = (
    VolatileText(
        re.compile(r"\Ax-anthropic-billing-header:[^\n]*(?:\n+|\Z)"),
        "Claude Code begins its system prompt with an account line that Anthropic's servers read and remove. It has a"
        " part that differs from start to start, so that about 18,000 tokens would be computed again each time.",
    ),
)
_FIRST_KEYS: Final = ("name", "description", "parameters")
"""The keys of a function come in this order, others after them."""


def with_stable_prefix(request: GenerateRequest) -> GenerateRequest:
    """Return the request without volatile texts, and with its tools in the order of their names."""
    messages = tuple(kept for message in request.messages if (kept := _without_volatile(message)) is not None)
    if not messages:
        messages = request.messages
    tools = tuple(sorted(map(_ordered, request.tools), key=_name))
    if messages == request.messages and list(map(list, tools)) == list(map(list, request.tools)):
        return request if tools == request.tools else request.model_copy(update={"tools": tools})
    return request.model_copy(update={"messages": messages, "tools": tools})


def _without_volatile(message: Message) -> Message | None:
    """Return the message without volatile texts, None when nothing is left of it."""
    if message.role not in ("system", "developer"):
        return message
    text = message.content
    for volatile in VOLATILE:
        text = volatile.pattern.sub("", text)
    if text == message.content:
        return message
    return message.model_copy(update={"content": text}) if text.strip() else None


def _ordered(tool: Tool) -> Tool:
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    keys = [*(key for key in _FIRST_KEYS if key in function), *(key for key in function if key not in _FIRST_KEYS)]
    return {**tool, "function": {key: function[key] for key in keys}}


def _name(tool: Tool) -> str:
    function: Any = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""
