"""`POST /api/generate` and `/api/chat`: the bodies, and what they mean in ollmlx's words. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ollmlx import ModelName
from ollmlx.errors import InvalidRequest, NotFound
from ollmlx.types import GenerateRequest, Message, ToolCall
from ollmlx_ollama_api.options import options
from ollmlx_ollama_api.wire import KeepAlive, Named, Wire, parse_name

Role = Literal["system", "user", "assistant", "tool", "developer"]
Level = Literal["low", "medium", "high", "max"]
THINKING_LEVELS: tuple[Level, ...] = ("low", "medium", "high", "max")
MOST_LOGPROBS = 20

Think = bool | Level | None


class Generation(Named):
    """What both bodies share. `stream` absent means true."""

    stream: bool = True
    format: Any = None
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}
    think: bool | Annotated[str, Field(json_schema_extra={"enum": list(THINKING_LEVELS)})] | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": MOST_LOGPROBS})] = 0

    @property
    def unloads(self) -> bool:
        return self.keep_alive == 0

    def shared(self) -> dict[str, Any]:
        """The fields of GenerateRequest that come from these. Raises InvalidRequest."""
        if not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_LOGPROBS}")
        return {
            "options": options(self.options),
            "format": response_format(self.format),
            "think": thinking(self.think),
            "truncate": self.truncate,
            "shift": self.shift,
            "top_logprobs": self.top_logprobs if self.logprobs else None,
        }


class GenerateBody(Generation):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] = ()
    raw: bool = False
    images: tuple[str, ...] = ()

    @field_validator("context", "images", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @property
    def only_loads(self) -> bool:
        """An empty prompt has the model loaded, or let go, and nothing generated."""
        return not self.prompt and not self.images and not self.suffix

    def generated_name(self) -> ModelName:
        """The parsed name; this route alone answers a missing one with 404. Raises NotFound, InvalidRequest."""
        if not self.asked:
            raise NotFound("model '' not found")
        return parse_name(self.asked)

    def to_vocabulary(self) -> GenerateRequest:
        """The request in ollmlx's words. Raises InvalidRequest."""
        if self.raw and (self.template or self.system or self.context):
            raise InvalidRequest("raw mode does not support template, system, or context")
        shared = self.shared()
        if self.raw:
            return GenerateRequest(prompt=self.prompt, suffix=self.suffix or None, **shared)
        if self.suffix:
            return GenerateRequest(
                prompt=self.prompt, suffix=self.suffix, template=self.template or None, context=self.context, **shared
            )
        system = (Message(role="system", content=self.system),) if self.system else ()
        user = Message(role="user", content=self.prompt, images=self.images)
        return GenerateRequest(messages=(*system, user), context=self.context, template=self.template or None, **shared)


class WireFunction(Wire):
    """The function of a tool call; `arguments` is an object."""

    name: str
    arguments: dict[str, Any] = {}


class WireToolCall(Wire):
    """One tool call of an assistant's message."""

    id: str | None = None
    function: WireFunction


class WireMessage(Wire):
    """One turn; `role` in any letter case, `content` may be absent."""

    role: Role
    content: str = ""
    thinking: str | None = None
    images: tuple[str, ...] = ()
    tool_calls: tuple[WireToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None

    @field_validator("images", "tool_calls", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("role", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    def to_vocabulary(self) -> Message:
        """The message in ollmlx's words."""
        return Message(
            role=self.role,
            content=self.content,
            thinking=self.thinking,
            images=self.images,
            tool_calls=tuple(
                ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
                for call in self.tool_calls
            ),
            tool_name=self.tool_name,
            tool_call_id=self.tool_call_id,
        )


class ChatBody(Generation):
    """`POST /api/chat`."""

    messages: tuple[WireMessage, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @field_validator("messages", "tools", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @property
    def only_loads(self) -> bool:
        """No messages: have the model loaded, or let go."""
        return not self.messages

    def to_vocabulary(self) -> GenerateRequest:
        """The request in ollmlx's words. Raises InvalidRequest."""
        for tool in self.tools:
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
                raise InvalidRequest("invalid tool: function.name is required")
        return GenerateRequest(
            messages=tuple(message.to_vocabulary() for message in self.messages), tools=self.tools, **self.shared()
        )


def response_format(value: Any) -> Any:
    """`json`, a schema, or None for absent and empty. Raises InvalidRequest."""
    if value is None or value == "":
        return None
    if value == "json" or (isinstance(value, dict) and value):
        return value
    shown = f'"{value[:40]}"' if isinstance(value, str) else type(value).__name__
    raise InvalidRequest(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def thinking(value: bool | str | None) -> Think:
    """A switch or a level. Raises InvalidRequest."""
    if value is None or isinstance(value, bool):
        return value
    for level in THINKING_LEVELS:
        if value == level:
            return level
    levels = ", ".join(f'"{known}"' for known in THINKING_LEVELS)
    raise InvalidRequest(f'invalid think value: "{value[:40]}" (must be {levels}, true, or false)')
