"""Messages of a conversation and the tool calls in them."""

from __future__ import annotations

from typing import Any, Literal

from ollmlx.model.frozen import Frozen

Tool = dict[str, Any]
"""One tool as the chat templates take it: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


class ToolCall(Frozen):
    """A call the model asks for. `arguments` is always an object, in the order the model wrote it."""

    name: str
    arguments: dict[str, Any] = {}
    id: str | None = None


class Message(Frozen):
    """One turn. `images` are base64 without a data-URL prefix. `tool_name`/`tool_call_id` belong to role `tool`."""

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str = ""
    thinking: str | None = None
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None
