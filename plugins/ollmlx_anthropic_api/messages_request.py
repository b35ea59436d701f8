"""`POST /v1/messages`: the body as Anthropic's clients send it, and its translation into a request. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options, Tool, ToolCall

Think = bool | Literal["low", "medium", "high", "max"]

BLOCKS = ("text", "thinking", "redacted_thinking", "image", "tool_use", "tool_result")


class AnthropicBody(BaseModel):
    """A JSON body, or a part of one: unknown fields are ignored, a null field counts as absent."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class ImageSource(AnthropicBody):
    type: str
    media_type: str | None = None
    data: str | None = None


class Block(AnthropicBody):
    """A block of content; its type decides which fields count."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(BLOCKS)})]
    text: str = ""
    thinking: str = ""
    source: ImageSource | None = None
    id: str | None = None
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str | None = None
    content: str | tuple[Block, ...] = ""
    is_error: bool = False


class Turn(AnthropicBody):
    role: Literal["user", "assistant", "system"]
    content: str | tuple[Block, ...]


class ToolDefinition(AnthropicBody):
    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    type: str = "custom"


class ToolChoice(AnthropicBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class ThinkingConfig(AnthropicBody):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputConfig(AnthropicBody):
    effort: str = ""
    format: dict[str, Any] | None = None


class ConversationBody(AnthropicBody):
    """The fields that `/v1/messages` and `/v1/messages/count_tokens` share."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[Turn, ...], Field(min_length=1)]
    system: str | tuple[Block, ...] = ""
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = ToolChoice(type="auto")
    thinking: ThinkingConfig = ThinkingConfig(type="disabled")
    output_config: OutputConfig = OutputConfig()

    def conversation(self) -> tuple[Message, ...]:
        """Translate the turns, the system prompt first. Raises InvalidRequest."""
        system = _text(self.system)
        turns = [Message(role="system", content=system)] if system else []
        names: dict[str, str] = {}
        for turn in self.messages:
            turns.extend(_turn(turn, names))
        return tuple(turns)

    def tool_list(self) -> tuple[Tool, ...]:
        """Translate the tools. Raises InvalidRequest for those that run on Anthropic's servers."""
        return tuple(map(_tool, self.tools))


class MessagesRequest(ConversationBody):
    """The whole body of `/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool = False
    stop_sequences: tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] | None = None

    def to_vocabulary(self, *, can_think: bool) -> GenerateRequest:
        """Translate the body into a request. A model that cannot think ignores `thinking`: clients always send it."""
        turns = self.conversation()
        return GenerateRequest(
            messages=turns,
            tools=self.tool_list(),
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=not self.tool_choice.disable_parallel_tool_use,
            think=self._think() if can_think else None,
            format=_format(self.output_config.format),
            options=self._options(),
            continue_last=turns[-1].role == "assistant" and not turns[-1].tool_calls,
        )

    def _think(self) -> Think:
        return self.thinking.type != "disabled" and _EFFORTS.get(self.output_config.effort, True)

    def _options(self) -> Options:
        stated: dict[str, Any] = {"num_predict": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        if self.top_k is not None:
            stated["top_k"] = self.top_k
        if self.stop_sequences:
            stated["stop"] = self.stop_sequences
        return Options.model_validate(stated)


_EFFORTS: dict[str, Think] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}


def _choice(choice: ToolChoice) -> str:
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequest("tool_choice.name: field required")
        return choice.name
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _format(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise InvalidRequest("output_config.format: only json_schema with a schema is supported")
    return schema


def _tool(tool: ToolDefinition) -> Tool:
    if tool.type != "custom":
        raise InvalidRequest(f"tools: {tool.type!r} runs on Anthropic's servers and is not available here")
    parameters = tool.input_schema or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _text(content: str | tuple[Block, ...]) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block.type != "text":
            raise InvalidRequest(f"content blocks of type {block.type!r} are not supported here")
    return "\n".join(block.text for block in content)


def _turn(turn: Turn, names: dict[str, str]) -> list[Message]:
    """Translate a turn into messages: first the tool results, then the text beside them."""
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    results, texts, thoughts, images, calls = [], [], [], [], []
    for block in turn.content:
        match block.type:
            case "text":
                texts.append(block.text)
            case "thinking":
                thoughts.append(block.thinking)
            case "redacted_thinking":
                continue
            case "image":
                images.append(_image(block))
            case "tool_use":
                calls.append(ToolCall(name=block.name, arguments=block.input, id=block.id))
                names[block.id or ""] = block.name
            case "tool_result":
                results.append(_result(block, names))
            case other:
                raise InvalidRequest(f"messages: content blocks of type {other!r} are not supported")
    if not (texts or thoughts or images or calls) and results:
        return results
    message = Message(
        role=turn.role,
        content="\n".join(texts),
        thinking="\n".join(thoughts) or None,
        images=tuple(images),
        tool_calls=tuple(calls),
    )
    return [*results, message]


def _result(block: Block, names: dict[str, str]) -> Message:
    text = f"Error: {_text(block.content)}" if block.is_error else _text(block.content)
    name = names.get(block.tool_use_id or "")
    return Message(role="tool", content=text, tool_name=name, tool_call_id=block.tool_use_id)


def _image(block: Block) -> str:
    if block.source is None or block.source.type != "base64" or not block.source.data:
        raise InvalidRequest("messages: images must be base64 sources")
    return block.source.data
