"""The bodies of the routes that need a runner, their translation into requests, and the base of all bodies. Pure."""

from __future__ import annotations

import logging
import math
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)

from ollmlx import ModelName, parse_duration
from ollmlx.errors import InvalidRequest, NotFound
from ollmlx.types import Document, EmbedRequest, GenerateRequest, InputType, Message, RerankRequest, ToolCall
from ollmlx.web import JsonBody
from ollmlx_ollama_api.options import options, text_options

logger = logging.getLogger(__name__)

LONGEST = 200 * 365 * 86400.0
"""Seconds; a longer keep-alive means for ever."""

ROLES = ("system", "user", "assistant", "tool", "developer")
THINKING_LEVELS = ("low", "medium", "high", "max")
ThinkingLevel = Annotated[str, Field(json_schema_extra={"enum": list(THINKING_LEVELS)})]
MOST_LOGPROBS = 20
SOUND = re.compile(rb"ID3|\xff[\xe0-\xff]|fLaC|OggS|....ftypM4A", re.DOTALL)
"""The beginnings of sounds other than WAV."""


AsTuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Takes a JSON array as a tuple, which strict types ask for."""


class OllamaBody(JsonBody):
    """A body of Ollama's dialect, or a part of one: types are strict."""

    model_config = ConfigDict(strict=True)


def _keep_alive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"invalid keep_alive {value!r}")  # noqa: TRY004 - pydantic collects ValueErrors
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise ValueError(f'time: invalid duration "{value}"') from None
    except OverflowError:
        return math.inf
    return math.inf if seconds > LONGEST else seconds


_DURATION = Annotated[str, Field(pattern=r"^-?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d))+$")]  # in the description only
KeepAlive = Annotated[float, PlainValidator(_keep_alive, json_schema_input_type=float | _DURATION)]
"""Seconds for which a model stays loaded: a number, or a Go duration. A negative value means for ever."""


class NamedBody(OllamaBody):
    """A body that names a model, in the field `model` or the older `name`."""

    model: str = ""
    """The name as the client wrote it, in either field."""
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("model") in (None, "") and isinstance(data.get("name"), str):
            return {**data, "model": data["name"]}
        return data


def parse_name(text: str, message: str = "") -> ModelName:
    """Parse a model name. Raises InvalidRequest with `message`, or Ollama's usual one; the hint holds the reason."""
    try:
        return ModelName.parse(text)
    except InvalidRequest as error:
        if not text and not message:
            raise  # "model is required", as from Ollama
        raise InvalidRequest(message or "invalid model name", code=error.code, hint=_reason(error)) from error


def _reason(error: InvalidRequest) -> str:
    return "; ".join(filter(None, (error.message.removeprefix("invalid model name: "), error.hint)))


def response_format(value: Any) -> Any:
    """Return `json`, a schema, or None when `format` is absent or empty. Raises InvalidRequest."""
    if value is None or value == "":
        return None
    if value == "json" or (isinstance(value, dict) and value):
        return value
    shown = f'"{value[:40]}"' if isinstance(value, str) else type(value).__name__
    raise InvalidRequest(f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def thinking(value: bool | str | None) -> bool | str | None:
    """Return `think`, a switch or a level. Raises InvalidRequest."""
    if isinstance(value, str) and value not in THINKING_LEVELS:
        levels = ", ".join(f'"{known}"' for known in THINKING_LEVELS)
        raise InvalidRequest(f'invalid think value: "{value[:40]}" (must be {levels}, true, or false)')
    return value


class GenerationBody(NamedBody):
    """The fields that `/api/generate` and `/api/chat` share. Without `stream` the answer is a stream."""

    stream: bool = True
    format: Annotated[Any, AfterValidator(response_format)] = None
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}
    think: Annotated[bool | ThinkingLevel | None, AfterValidator(thinking)] = None
    max_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": MOST_LOGPROBS})] = 0
    debug_render_only: Annotated[bool, Field(alias="_debug_render_only")] = False

    @property
    def unloads(self) -> bool:
        return self.keep_alive == 0

    def shared(self) -> dict[str, Any]:
        """Return the fields of a GenerateRequest that come from these. Raises InvalidRequest."""
        if not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_LOGPROBS}")
        return {
            "options": options(self.options),
            "format": self.format,
            "think": self.think,
            "max_thinking_tokens": self.max_thinking_tokens,
            "truncate": self.truncate,
            "shift": self.shift,
            "top_logprobs": self.top_logprobs if self.logprobs else None,
        }


def sounds_apart(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the fields of a message for `images`, among which Ollama takes sounds, too."""
    sounds = tuple(filter(_is_sound, files))
    return {"images": tuple(file for file in files if file not in sounds), "audio": sounds}


def _is_sound(file: str) -> bool:
    """Return whether a file in base64 begins as WAV, MP3, FLAC, Ogg or M4A do."""
    try:
        begin = b64decode(file[:16])
    except ValueError:
        return False
    return begin[:4] + begin[8:12] == b"RIFFWAVE" or SOUND.match(begin) is not None


class GenerateBody(GenerationBody):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: Annotated[tuple[int, ...], AsTuple] = ()
    raw: bool = False
    images: Annotated[tuple[str, ...], AsTuple] = ()

    @property
    def only_loads(self) -> bool:
        """True for an empty prompt: the model is loaded or unloaded, and nothing is generated."""
        return not self.prompt and not self.images and not self.suffix

    def generated_name(self) -> ModelName:
        """Parse the name. Raises NotFound when it is missing (only this route answers 404), else InvalidRequest."""
        if not self.model:
            raise NotFound("model '' not found")
        return parse_name(self.model)

    def to_vocabulary(self) -> GenerateRequest:
        self.check_raw()
        shared = {"context": self.context, "template": self.template or None, **self.shared()}
        if self.raw or self.suffix:
            return GenerateRequest(prompt=self.prompt, suffix=self.suffix or None, **shared)
        system = (Message(role="system", content=self.system),) if self.system else ()
        user = Message(role="user", content=self.prompt, **sounds_apart(self.images))
        return GenerateRequest(messages=(*system, user), **shared)

    def check_raw(self) -> None:
        """Raise InvalidRequest when a raw prompt comes with fields for the template."""
        if self.raw and (self.template or self.system or self.context):
            raise InvalidRequest("raw mode does not support template, system, or context")
        if self.images and (self.raw or self.suffix):
            raise InvalidRequest("images need a chat template: neither raw mode nor suffix supports them")


class OllamaFunctionCall(OllamaBody):
    """The function of a tool call; `arguments` is an object."""

    name: str
    arguments: dict[str, Any] = {}


class OllamaToolCall(OllamaBody):
    """One tool call of an assistant's message."""

    id: str | None = None
    function: OllamaFunctionCall


class OllamaMessage(OllamaBody):
    """One turn. `role` may be any word, in any letter case; `content` may be absent."""

    role: str
    content: str = ""
    thinking: str | None = None
    images: Annotated[tuple[str, ...], AsTuple] = ()
    tool_calls: Annotated[tuple[OllamaToolCall, ...], AsTuple] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None

    @field_validator("role")
    @classmethod
    def _known(cls, value: str) -> str:
        """Return a role that chat templates know. Whoever else speaks is told from the model as the user is."""
        if value.lower() in ROLES:
            return value.lower()
        logger.debug("chat: a message of the role %r counts as the user's", value[:40])
        return "user"

    def to_vocabulary(self) -> Message:
        calls = tuple(
            ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id) for call in self.tool_calls
        )
        return Message(**{**dict(self), **sounds_apart(self.images), "tool_calls": calls})


class ChatBody(GenerationBody):
    """`POST /api/chat`."""

    messages: Annotated[tuple[OllamaMessage, ...], AsTuple] = ()
    tools: Annotated[tuple[dict[str, Any], ...], AsTuple] = ()

    @property
    def only_loads(self) -> bool:
        """True without messages: the model is loaded or unloaded, and nothing is generated."""
        return not self.messages

    def to_vocabulary(self) -> GenerateRequest:
        for tool in self.tools:
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
                raise InvalidRequest("invalid tool: function.name is required")
        return GenerateRequest(
            messages=tuple(message.to_vocabulary() for message in self.messages), tools=self.tools, **self.shared()
        )


class EmbedBody(NamedBody):
    """`POST /api/embed`."""

    input: Any = None
    input_type: InputType | None = None
    truncate: bool = True
    dimensions: int | None = None
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}

    def inputs(self) -> tuple[str, ...]:
        """Return the texts, none for an absent or empty input. Raises InvalidRequest."""
        if self.input is None or self.input == "":
            return ()
        given = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise InvalidRequest("invalid input type")
        return tuple(given)

    def length(self) -> int | None:
        """Return the requested length of the vectors, None for the model's own. Raises InvalidRequest."""
        if self.dimensions is not None and self.dimensions < 0:
            raise InvalidRequest("dimensions must not be negative")
        return self.dimensions or None

    def to_vocabulary(self) -> EmbedRequest:
        return EmbedRequest(
            inputs=self.inputs(),
            input_type=self.input_type,
            truncate=self.truncate,
            dimensions=self.length(),
            options=text_options(self.options),
        )


class RerankBody(NamedBody):
    """`POST /api/rerank`."""

    query: str = ""
    documents: Annotated[tuple[Document, ...], AsTuple] = ()
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    truncate: bool = True
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}

    def to_vocabulary(self) -> RerankRequest:
        """Translate the body. Raises InvalidRequest for a missing query or documents."""
        for name in ("query", "documents"):
            if not getattr(self, name):
                raise InvalidRequest(f"{name} is required")
        return RerankRequest(
            query=self.query, documents=self.documents, truncate=self.truncate, options=text_options(self.options)
        )


class EmbeddingsBody(NamedBody):
    """`POST /api/embeddings`, the older of the two."""

    prompt: str = ""
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}

    def to_vocabulary(self) -> EmbedRequest:
        """Translate the body into a request for a vector that is not normalised. Raises InvalidRequest."""
        inputs = (self.prompt,) if self.prompt else ()
        return EmbedRequest(inputs=inputs, normalize=False, options=text_options(self.options))
