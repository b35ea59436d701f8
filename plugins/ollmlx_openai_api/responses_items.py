"""The items of the input of `/v1/responses`, and their translation into the turns of a conversation. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ollmlx.errors import InvalidRequest
from ollmlx.types import Message, ToolCall
from ollmlx_openai_api.chat_request import (
    IMAGES,
    ChatMessage,
    ContentPart,
    FunctionCall,
    OpenAIBody,
    OpenAIToolCall,
    image,
    messages,
    tool_call,
)
from ollmlx_openai_api.responses_tools import SHELL, ResponseTools

CALLS = ("function_call", "custom_tool_call", "local_shell_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output")
TOOLS = ("additional_tools", "tool_search_output")
"""Items that bring tools, as the client's search for tools does."""
ITEMS = ("message", *CALLS, *OUTPUTS, "reasoning", *TOOLS)
REFERENCE = "item_reference"


class InputItem(OpenAIBody):
    """An item of the input; its type decides which fields count. Of a type that is not in ITEMS, no field counts."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(ITEMS)})] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | tuple[ContentPart, ...] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    action: dict[str, Any] = {}
    output: str | tuple[ContentPart, ...] | None = None
    summary: tuple[ContentPart, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _only_the_type_of_others(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(kind := data.get("type"), str) and kind not in ITEMS:
            return {"type": kind}
        return data


class ItemConversation:
    """Builds the turns. Calls and thoughts are merged into the assistant's turn.

    `skipped` are the types of items that mean nothing here: calls of OpenAI's own tools, and its encrypted summaries.
    """

    def __init__(self, tools: ResponseTools) -> None:
        self.turns: list[Message] = []
        self.skipped: list[str] = []
        self._tools = tools
        self._names: dict[str, str] = {}

    def add(self, item: InputItem) -> None:
        """Append an item. Raises InvalidRequest when it is malformed or refers to an item that is not sent."""
        if item.type == "message":
            self._message(item)
        elif item.type in CALLS:
            self._call(item)
        elif item.type in OUTPUTS:
            self._output(item)
        elif item.type == "reasoning":
            self._thought(item)
        elif item.type == REFERENCE:
            raise InvalidRequest("input: item_reference is not supported: send the whole conversation")
        elif item.type not in ITEMS:
            self.skipped.append(item.type)

    def _message(self, item: InputItem) -> None:
        if item.role is None:
            raise InvalidRequest("input: a message needs a role")
        (turn,) = messages((ChatMessage(role=item.role, content=item.content),))
        last = self.turns[-1] if self.turns else None
        if last and turn.role == "assistant" and last.role == "assistant" and not last.content:
            self.turns[-1] = last.model_copy(update={"content": turn.content})
        else:
            self.turns.append(turn)

    def _thought(self, item: InputItem) -> None:
        """Append a thought. What is encrypted stays unread: a thought without text adds nothing."""
        parts = [*item.summary, *(item.content if isinstance(item.content, tuple) else ())]
        if thought := "\n".join(part.text or "" for part in parts):
            self.turns.append(Message(role="assistant", thinking=thought))

    def _call(self, item: InputItem) -> None:
        call = self._read_call(item)
        for key in (item.call_id, item.id):
            if key:
                self._names[key] = call.name
        if self.turns and self.turns[-1].role == "assistant":
            last = self.turns[-1]
            self.turns[-1] = last.model_copy(update={"tool_calls": (*last.tool_calls, call)})
        else:
            self.turns.append(Message(role="assistant", tool_calls=(call,)))

    def _read_call(self, item: InputItem) -> ToolCall:
        if item.type == "local_shell_call":
            stated = {
                key: item.action[key]
                for key in ("command", "working_directory", "timeout_ms")
                if item.action.get(key) is not None
            }
            return ToolCall(name=SHELL, arguments=stated, id=item.call_id or item.id)
        if not item.name:
            raise InvalidRequest(f"input: a {item.type} needs a name")
        name = self._tools.offered_name(item.name, item.namespace)
        if item.type == "custom_tool_call":
            return ToolCall(name=name, arguments={"input": item.input or ""}, id=item.call_id)
        function = FunctionCall(name=name, arguments=item.arguments or "{}")
        return tool_call(OpenAIToolCall(id=item.call_id, function=function))

    def _output(self, item: InputItem) -> None:
        parts = item.output if isinstance(item.output, tuple) else ()
        text = item.output if isinstance(item.output, str) else "\n".join(part.text for part in parts if part.text)
        urls = (part.image_url for part in parts if part.type in IMAGES and part.image_url is not None)
        key = item.call_id or item.id
        self.turns.append(
            Message(
                role="tool",
                content=text,
                images=tuple(image(url) for url in urls),
                tool_name=self._names.get(key or ""),
                tool_call_id=key,
            )
        )
