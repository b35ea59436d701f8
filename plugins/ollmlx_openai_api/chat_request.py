"""`POST /v1/chat/completions`: the body as OpenAI's clients send it, and its translation into a request. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options, ToolCall

Think = bool | Literal["low", "medium", "high", "max"] | None

DATA_URL = "data:"
TEXTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
IMAGES = ("image_url", "input_image")


class OpenAIBody(BaseModel):
    """A JSON body, or a part of one: unknown fields are ignored, known fields are checked."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _texts_only(value: Any) -> Any:
    """Return the value. Raises ValueError for token ids: OpenAI's tokenizers made them, models here have others."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("send text: token ids of another tokenizer cannot be read here")
    return value


Texts = Annotated[str | tuple[str, ...], BeforeValidator(_texts_only)]
"""A text or several. Arrays of token ids are refused."""


class ImageUrl(OpenAIBody):
    url: str


class ContentPart(OpenAIBody):
    """One part of a message's content."""

    type: Annotated[str, Field(json_schema_extra={"enum": [*TEXTS, *IMAGES]})]
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class FunctionCall(OpenAIBody):
    name: str
    arguments: str = "{}"


class OpenAIToolCall(OpenAIBody):
    id: str | None = None
    function: FunctionCall


class ChatMessage(OpenAIBody):
    """One turn; `content` may be text, parts, or null beside tool calls."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[OpenAIToolCall, ...] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class JsonSchema(OpenAIBody):
    name: str = ""
    schema_: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(OpenAIBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(OpenAIBody):
    include_usage: bool = False


class Reasoning(OpenAIBody):
    effort: str | None = None


class SamplingFields(OpenAIBody):
    """The sampling fields that chat and plain completions share."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    repetition_penalty: Annotated[float, Field(ge=0)] | None = None
    repetition_context_size: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    num_draft_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None

    def sampling(self, limit: int | None) -> Options:
        """Return these fields as options. Absent ones get OpenAI's defaults: temperature 1, top_p 1."""
        stated: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
        same = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias")
        for name in same:
            value = getattr(self, name)
            if value is not None:
                stated[name] = value
        for theirs, ours in _OF_MLX_LM.items():
            value = getattr(self, theirs)
            if value is not None:
                stated[ours] = value or 1.0 if theirs == "repetition_penalty" else value  # 0 is off, as 1 is
        if self.stop is not None:
            stated["stop"] = (self.stop,) if isinstance(self.stop, str) else self.stop
        if limit is not None:
            stated["num_predict"] = limit
        return Options.model_validate(stated)


_OF_MLX_LM = {
    "repetition_penalty": "repeat_penalty",
    "repetition_context_size": "repeat_last_n",
    "num_draft_tokens": "draft_num_predict",
}
"""Fields that only mlx_lm.server has, and the option that each one sets."""


class TemplateArguments(OpenAIBody):
    """The arguments of the chat template that have a meaning for every model."""

    enable_thinking: bool | None = None
    reasoning_effort: str | None = None


class ChatRequest(SamplingFields):
    """The whole body."""

    model: str
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: TemplateArguments | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    def _think(self) -> Think:
        """Read the effort from OpenAI's field, OpenRouter's, or the template's arguments (vLLM, mlx_lm.server)."""
        arguments = self.chat_template_kwargs or TemplateArguments()
        effort = self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)
        if (effort := effort or arguments.reasoning_effort) is not None:
            return think(effort)
        return arguments.enable_thinking

    def to_vocabulary(self) -> GenerateRequest:
        """Translate the body into a request. Raises InvalidRequest for a field that is not supported."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return GenerateRequest(
            messages=messages(self.messages),
            tools=self.tools or (),
            tool_choice=tool_choice(self.tool_choice),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            think=self._think(),
            format=response_format(self.response_format),
            options=self.sampling(limit),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def messages(wire: tuple[ChatMessage, ...]) -> tuple[Message, ...]:
    """Translate the conversation. A tool result gets the name of the function whose call it answers."""
    names: dict[str, str] = {}
    turns = []
    for message in wire:
        calls = tuple(_tool_call(call) for call in message.tool_calls or ())
        names |= {call.id: call.name for call in calls if call.id}
        text, images = _content(message.content)
        turns.append(
            Message(
                role=_ROLES[message.role],
                content=text,
                thinking=message.reasoning or message.reasoning_content,
                images=images,
                tool_calls=calls,
                tool_name=names.get(message.tool_call_id or "", message.name) if message.role in _TOOLS else None,
                tool_call_id=message.tool_call_id,
            )
        )
    return tuple(turns)


_ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TOOLS = frozenset({"tool", "function"})


def _tool_call(call: OpenAIToolCall) -> ToolCall:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError as error:
        raise InvalidRequest(f"invalid tool call arguments: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments: they must be a JSON object")
    return ToolCall(name=call.function.name, arguments=arguments, id=call.id)


def _content(content: str | tuple[ContentPart, ...] | None) -> tuple[str, tuple[str, ...]]:
    if content is None or isinstance(content, str):
        return content or "", ()
    texts, images = [], []
    for part in content:
        if part.type in TEXTS:
            texts.append(part.text or part.refusal or "")
        elif part.type in IMAGES and part.image_url is not None:
            images.append(_image(part.image_url if isinstance(part.image_url, str) else part.image_url.url))
        else:
            raise InvalidRequest(f"invalid message content: parts of type {part.type!r} are not supported")
    return "\n".join(texts) if len(texts) > 1 else "".join(texts), tuple(images)


def _image(url: str) -> str:
    head, comma, data = url.partition(",")
    if not head.startswith(DATA_URL) or ";base64" not in head or not comma:
        raise InvalidRequest("invalid image input: only base64 data URLs are supported")
    return data


def tool_choice(wire: str | dict[str, Any] | None) -> str:
    """Return `auto`, `none`, `required`, or the name of a function. Raises InvalidRequest."""
    if wire is None:
        return "auto"
    if isinstance(wire, str):
        if wire not in {"auto", "none", "required"}:
            raise InvalidRequest(f"invalid tool_choice {wire!r}: use auto, none, required or a function")
        return wire
    named = wire.get("function", wire)
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest("invalid tool_choice: the function's name is missing")
    return name


def think(effort: str | None) -> Think:
    """Translate the reasoning effort into ollmlx's levels; None leaves it to the model. Raises InvalidRequest."""
    if effort is None:
        return None
    if effort not in _EFFORTS:
        raise InvalidRequest(f"invalid reasoning effort {effort!r}: use one of {', '.join(_EFFORTS)}")
    return _EFFORTS[effort]


_EFFORTS: dict[str, bool | Literal["low", "medium", "high", "max"]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def response_format(wire: ResponseFormat | None) -> Literal["json"] | dict[str, Any] | None:
    """Return a JSON schema, "json" for any JSON, or None for text. Raises InvalidRequest."""
    if wire is None or wire.type == "text":
        return None
    if wire.type == "json_object":
        return "json"
    if wire.json_schema is None or not wire.json_schema.schema_:
        raise InvalidRequest("invalid response_format: json_schema.schema is missing")
    return wire.json_schema.schema_
