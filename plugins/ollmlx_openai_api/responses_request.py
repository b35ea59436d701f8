"""`POST /v1/responses`: the body, which has the whole conversation, and its translation into a request. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options, Tool
from ollmlx_openai_api.chat_request import (
    ChatMessage,
    ContentPart,
    FunctionCall,
    OpenAIBody,
    OpenAIToolCall,
    Reasoning,
    messages,
    response_format,
    think,
    tool_call,
    tool_choice,
)

ITEMS = ("message", "function_call", "function_call_output", "reasoning")
LOGPROBS = "message.output_text.logprobs"


class InputItem(OpenAIBody):
    """An item of the input; its type decides which fields count."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(ITEMS)})] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | tuple[ContentPart, ...] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | tuple[ContentPart, ...] | None = None
    summary: tuple[ContentPart, ...] = ()


class TextFormat(OpenAIBody):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(OpenAIBody):
    format: TextFormat = TextFormat()


class ResponsesRequest(OpenAIBody):
    """The whole body."""

    model: str
    input: str | tuple[InputItem, ...]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    include: tuple[str, ...] = ()
    stream: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    text: TextConfig = TextConfig()
    truncation: Literal["auto", "disabled"] = "disabled"
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool = False
    metadata: dict[str, Any] = {}

    def to_vocabulary(self) -> GenerateRequest:
        """Translate the body into a request. Raises InvalidRequest when it refers to an earlier response."""
        if self.previous_response_id is not None or self.conversation is not None:
            raise InvalidRequest("previous_response_id and conversation are not supported: send the whole conversation")
        if self.background:
            raise InvalidRequest("background responses are not supported")
        limit = {} if self.max_output_tokens is None else {"num_predict": self.max_output_tokens}
        wanted, effort = self.text.format, self.reasoning.effort
        return GenerateRequest(
            messages=self._conversation(),
            tools=tuple(map(_tool, self.tools)),
            tool_choice=tool_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls,
            think=None if effort is None else think(effort),
            format=response_format(wanted.type, wanted.schema_, "text.format.schema"),
            options=Options.model_validate({"temperature": self.temperature, "top_p": self.top_p, **limit}),
            top_logprobs=self.top_logprobs if self.top_logprobs or LOGPROBS in self.include else None,
            truncate=self.truncation == "auto",
        )

    def _conversation(self) -> tuple[Message, ...]:
        system = (Message(role="system", content=self.instructions),) if self.instructions else ()
        if isinstance(self.input, str):
            return (*system, Message(role="user", content=self.input))
        turns: list[Message] = []
        names: dict[str, str] = {}
        for item in self.input:
            _add(turns, item, names)
        if not turns:
            raise InvalidRequest("input must not be empty")
        return (*system, *turns)


def _add(turns: list[Message], item: InputItem, names: dict[str, str]) -> None:
    """Append an item to the conversation. Calls and thoughts are merged into the assistant's turn."""
    match item.type:
        case "message":
            if item.role is None:
                raise InvalidRequest("input: a message needs a role")
            (turn,) = messages((ChatMessage(role=item.role, content=item.content),))
            last = turns[-1] if turns else None
            if last and turn.role == "assistant" and last.role == "assistant" and not last.content:
                turns[-1] = last.model_copy(update={"content": turn.content})
            else:
                turns.append(turn)
        case "function_call":
            _call(turns, item, names)
        case "function_call_output":
            output = item.output or ""
            text = output if isinstance(output, str) else "\n".join(part.text or "" for part in output)
            name = names.get(item.call_id or "")
            turns.append(Message(role="tool", content=text, tool_name=name, tool_call_id=item.call_id))
        case "reasoning":
            parts = [*item.summary, *(item.content if isinstance(item.content, tuple) else ())]
            thought = "\n".join(part.text or "" for part in parts)
            turns.append(Message(role="assistant", thinking=thought or None))
        case other:
            raise InvalidRequest(f"input: items of type {other!r} are not supported")


def _call(turns: list[Message], item: InputItem, names: dict[str, str]) -> None:
    if not item.name:
        raise InvalidRequest("input: a function_call needs a name")
    function = FunctionCall(name=item.name, arguments=item.arguments or "{}")
    call = tool_call(OpenAIToolCall(id=item.call_id, function=function))
    names[item.call_id or ""] = item.name
    if turns and turns[-1].role == "assistant":
        turns[-1] = turns[-1].model_copy(update={"tool_calls": (*turns[-1].tool_calls, call)})
    else:
        turns.append(Message(role="assistant", tool_calls=(call,)))


def _tool(wire: dict[str, Any]) -> Tool:
    """Translate a function tool, whose fields are not nested as they are in chat completions."""
    if wire.get("type") != "function" or not isinstance(wire.get("name"), str):
        raise InvalidRequest(f"tools: {wire.get('type')!r} is not supported: only functions are")
    function = {key: wire[key] for key in ("name", "description", "parameters") if wire.get(key) is not None}
    return {"type": "function", "function": function}
