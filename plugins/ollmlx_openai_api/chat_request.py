"""`POST /v1/chat/completions`: the body as OpenAI's clients send it, and its translation into a request. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options, ToolCall
from ollmlx.web import JsonBody

Think = bool | Literal["low", "medium", "high", "max"] | None

TEXTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
IMAGES = ("image_url", "input_image")
AUDIO = "input_audio"
HOTTEST = 2.0
NO_LIMIT = -1


class OpenAIBody(JsonBody):
    """A body of OpenAI's dialect, or a part of one."""


class ImageUrl(OpenAIBody):
    url: str


class InputAudio(OpenAIBody):
    """A sound in base64. Its format is found in the file, whatever `format` says."""

    data: str
    format: str = ""


class ContentPart(OpenAIBody):
    """One part of a message's content."""

    type: Annotated[str, Field(json_schema_extra={"enum": [*TEXTS, *IMAGES, AUDIO]})]
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    input_audio: InputAudio | None = None


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
    tool_calls: tuple[OpenAIToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class JsonSchema(OpenAIBody):
    name: str = ""
    schema_: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(OpenAIBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema = JsonSchema()


class StreamOptions(OpenAIBody):
    include_usage: bool = False


class Reasoning(OpenAIBody):
    effort: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None


Temperature = Annotated[float, Field(ge=0), AfterValidator(lambda value: min(value, HOTTEST))]
"""A temperature. OpenAI refuses one above HOTTEST, which some clients send; it counts as HOTTEST here."""


class CompletionFields(OpenAIBody):
    """The fields that chat and plain completions share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Annotated[int, Field(ge=1, le=16)] = 1
    temperature: Temperature = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] | None = None
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
        given = ((ours, getattr(self, theirs)) for theirs, ours in _OPTIONS.items())
        found = {name: value for name, value in given if value is not None}
        if self.repetition_penalty == 0:
            found["repeat_penalty"] = 1.0  # both mean that there is no penalty
        if self.top_k == -1:
            found["top_k"] = 0  # both switch this filter off
        if self.stop is not None:
            found["stop"] = (self.stop,) if isinstance(self.stop, str) else self.stop
        if limit is not None:
            found["num_predict"] = limit
        return Options.model_validate(found)


_SAME = ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias")
_OPTIONS = {
    **{name: name for name in _SAME},
    "repetition_penalty": "repeat_penalty",  # this field and the next two are mlx_lm.server's
    "repetition_context_size": "repeat_last_n",
    "num_draft_tokens": "draft_num_predict",
}
"""The option that each sampling field sets."""


class TemplateArguments(OpenAIBody):
    """The arguments of the chat template that have a meaning for every model."""

    enable_thinking: bool | None = None
    reasoning_effort: str | None = None


class ChatRequest(CompletionFields):
    """The whole body."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=-1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    response_format: ResponseFormat = ResponseFormat(type="text")
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    reasoning: Reasoning = Reasoning()
    max_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    chat_template_kwargs: TemplateArguments = TemplateArguments()

    def _think(self) -> Think:
        """Read the effort from OpenAI's field, OpenRouter's, or the template's arguments (vLLM, mlx_lm.server)."""
        arguments = self.chat_template_kwargs
        effort = self.reasoning_effort or self.reasoning.effort or arguments.reasoning_effort
        return arguments.enable_thinking if effort is None else think(effort)

    def _budget(self) -> int | None:
        """Read the budget from its own field, or from OpenRouter's."""
        return self.reasoning.max_tokens if self.max_thinking_tokens is None else self.max_thinking_tokens

    def to_vocabulary(self) -> GenerateRequest:
        """Translate the body into a request. Raises InvalidRequest for a field that is not supported."""
        wanted = self.response_format
        choice, names = allowed(self.tool_choice)
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return GenerateRequest(
            messages=messages(self.messages),
            tools=among(self.tools, names, tool_name),
            tool_choice=tool_choice(choice),
            parallel_tool_calls=self.parallel_tool_calls,
            think=self._think(),
            max_thinking_tokens=self._budget(),
            format=response_format(wanted.type, wanted.json_schema.schema_, "json_schema.schema"),
            options=self.sampling(NO_LIMIT if limit == 0 else limit),
            top_logprobs=self.top_logprobs if self.logprobs else None,
            truncate=False,
            shift=False,
        )


def tool_name(tool: dict[str, Any]) -> Any:
    """Return the name of a tool's function, None when it has none."""
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


_ROLES: dict[str, Any] = {"developer": "system", "function": "tool"}


def messages(wire: tuple[ChatMessage, ...]) -> tuple[Message, ...]:
    """Translate the conversation. A tool result gets the name of the function whose call it answers."""
    names: dict[str, str] = {}
    turns = []
    for message in wire:
        calls = tuple(tool_call(call) for call in message.tool_calls)
        names |= {call.id: call.name for call in calls if call.id}
        text, media = _content(message.content)
        role = _ROLES.get(message.role, message.role)
        turns.append(
            Message(
                role=role,
                content=text,
                thinking=message.reasoning or message.reasoning_content,
                **media,
                tool_calls=calls,
                tool_name=names.get(message.tool_call_id or "", message.name) if role == "tool" else None,
                tool_call_id=message.tool_call_id,
            )
        )
    return tuple(turns)


def tool_call(call: OpenAIToolCall) -> ToolCall:
    """Translate a call, whose arguments OpenAI has as JSON text. Raises InvalidRequest."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except ValueError as error:
        raise InvalidRequest(f"invalid tool call arguments: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments: they must be a JSON object")
    return ToolCall(name=call.function.name, arguments=arguments, id=call.id)


def _content(content: str | tuple[ContentPart, ...] | None) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the text of the parts, and their images and sounds."""
    if content is None or isinstance(content, str):
        return content or "", {}
    texts, images, sounds = [], [], []
    for part in content:
        if part.type in TEXTS:
            texts.append(part.text or part.refusal or "")
        elif part.type in IMAGES and part.image_url is not None:
            images.append(image(part.image_url))
        elif part.type == AUDIO and part.input_audio is not None:
            sounds.append(part.input_audio.data)
        else:
            raise InvalidRequest(f"invalid message content: parts of type {part.type!r} are not supported")
    return "\n".join(texts), {"images": tuple(images), "audio": tuple(sounds)}


def image(link: ImageUrl | str) -> str:
    """Return the base64 data of an image, or its address. Raises InvalidRequest."""
    url = link if isinstance(link, str) else link.url
    if url[:8].lower().startswith(("http://", "https://")):
        return url
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or ";base64" not in head or not comma:
        raise InvalidRequest("invalid image input: only base64 data URLs and http addresses are supported")
    return data


def allowed(wire: str | dict[str, Any]) -> tuple[str | dict[str, Any], frozenset[str] | None]:
    """Return the choice among the tools that `allowed_tools` names, and their names; None when all are allowed.

    Raises InvalidRequest for a malformed choice.
    """
    if not isinstance(wire, dict) or wire.get("type") != "allowed_tools":
        return wire, None
    stated = wire.get("allowed_tools", wire)  # chat completions wrap what responses have beside the type
    tools = stated.get("tools") if isinstance(stated, dict) else None
    if not isinstance(tools, list) or stated.get("mode", "auto") not in ("auto", "required"):
        raise InvalidRequest("invalid tool_choice: allowed_tools needs a mode, auto or required, and a list of tools")
    names = []
    for tool in tools:
        named = tool.get("function", tool) if isinstance(tool, dict) else None
        name = named.get("name", tool.get("type")) if isinstance(named, dict) else None
        if not isinstance(name, str):
            raise InvalidRequest("invalid tool_choice: a tool of allowed_tools has no name")
        names.append(name)
    return stated.get("mode", "auto"), frozenset(names)


def among(
    tools: Sequence[dict[str, Any]], names: Collection[str] | None, name: Callable[[dict[str, Any]], Any]
) -> tuple[dict[str, Any], ...]:
    """Return the tools with these names, all for None. Raises InvalidRequest when no tool is left."""
    found = tuple(tool for tool in tools if names is None or name(tool) in names)
    if names is not None and not found:
        raise InvalidRequest("invalid tool_choice: allowed_tools names none of the tools")
    return found


def tool_choice(wire: str | dict[str, Any]) -> str:
    """Return `auto`, `none`, `required`, or the name of a function. Raises InvalidRequest."""
    if isinstance(wire, str):
        if wire not in {"auto", "none", "required"}:
            raise InvalidRequest(f"invalid tool_choice {wire!r}: use auto, none, required or a function")
        return wire
    named = wire.get("function", wire)
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest("invalid tool_choice: the function's name is missing")
    return name


_EFFORTS: dict[str, Think] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"
}  # fmt: skip


def think(effort: str) -> Think:
    """Translate the reasoning effort into ollmlx's levels. A word that no level has just means to think."""
    return _EFFORTS.get(effort, True)


def response_format(kind: str, schema: dict[str, Any] | None, field: str) -> Literal["json"] | dict[str, Any] | None:
    """Return a JSON schema, "json" for any JSON, or None for text. Raises InvalidRequest when `field` is missing."""
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    if not schema:
        raise InvalidRequest(f"invalid response format: {field} is missing")
    return schema
