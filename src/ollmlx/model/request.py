"""Requests as the daemon and the runners know them, free of any wire dialect."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """The base of every shared type: immutable, without unknown fields, without NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


Tool = dict[str, Any]
"""One tool for chat templates: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


class ToolCall(Frozen):
    """A call that the model asks for. `arguments` is always an object; its order is the one the model wrote."""

    name: str
    arguments: dict[str, Any] = {}
    id: str | None = None


class Message(Frozen):
    """One message. `images` and `audio` are files in base64, without a data-URL prefix. Role `tool` has `tool_name` and
    `tool_call_id`.
    """

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str = ""
    thinking: str | None = None
    images: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None

    @property
    def media(self) -> tuple[str, ...]:
        """The pictures and the sounds, in the order in which models get them."""
        return (*self.images, *self.audio)


class Options(Frozen):
    """The sampling and run-time options of one generation, with Ollama's names and meanings.

    Only fields that were set count when options are merged: `request.over(model)`. Lengths are in tokens.
    `seed` -1 draws one; `num_predict` -1 means up to the context length and -2 fills it; `top_k` 0, `top_p` 1, `min_p`
    0 and `typical_p` 1 switch that filter off; penalties are off at `repeat_penalty` 1 and 0 for the others;
    `repeat_last_n` -1 looks at the whole context and 0 at nothing. Every `stop` is searched for after each token, so
    there may be 64 of 1,024 characters.
    """

    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_k: Annotated[int, Field(ge=0)] = 40
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: int = -1
    repeat_last_n: Annotated[int, Field(ge=-1)] = 64
    repeat_penalty: Annotated[float, Field(gt=0)] = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=64)] = ()
    num_predict: Annotated[int, Field(ge=-2)] = -1
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    num_keep: Annotated[int, Field(ge=-1)] = 4
    draft_num_predict: Annotated[int, Field(ge=0)] = 4
    logit_bias: dict[int, float] = {}
    backend: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_num_batch(cls, values: Any) -> Any:
        """Manifests of earlier versions hold `num_batch`, which has no effect."""
        return {name: values[name] for name in values if name != "num_batch"} if isinstance(values, dict) else values

    def over(self, weaker: Options) -> Self:
        """Return these options; fields that are not set are taken from `weaker`."""
        return self.model_copy(
            update={name: getattr(weaker, name) for name in weaker.model_fields_set - self.model_fields_set}
        )

    @property
    def stated(self) -> dict[str, object]:
        """The fields that were set, by name."""
        return self.model_dump(exclude_unset=True)


TOOL_CHOICES: Final = ("auto", "none", "required")
"""The choices that name no tool."""


class Caller(Frozen):
    """The client of a request, for logs and fair shares. `client`: an API key's fingerprint or an address."""

    request_id: str
    client: str = "local"
    priority: Literal["high", "normal", "low"] = "normal"


class GenerateRequest(Frozen):
    """One generation: either a conversation (`messages`) or plain text (`prompt`).

    The runner puts a conversation through the chat template; plain text is used unchanged.
    `context`: token ids that precede the prompt. `suffix`: the text after the gap, to fill in the middle.
    `format`: "json", or a JSON schema that the answer must satisfy. `top_logprobs`: None, or 0 to 20 alternatives.
    `truncate`: True leaves out the oldest messages that do not fit and reports it; False refuses the request.
    `shift`: continue past the context length by dropping old tokens. `continue_last`: the last message is the
    assistant's, and is continued instead of answered. `cache_owner`: only prefix caches of requests with the same one
    may be used. It is the fingerprint of an API key; empty, and then not sent, where caches belong to everybody.
    """

    request_id: str = ""
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    context: tuple[int, ...] = ()
    suffix: str | None = None
    template: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or the name of the one function that must be called."""
    parallel_tool_calls: bool = True
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens after which a thought is ended and the answer begins. None: the level's, or no limit."""
    format: Literal["json"] | dict[str, Any] | None = None
    grammars: dict[str, str] = Field({}, exclude_if=operator.not_)
    """Grammars, in llguidance's Lark, of the texts that freeform tools take, by the tools' names."""
    options: Options = Options()
    top_logprobs: int | None = None
    truncate: bool = True
    shift: bool = True
    continue_last: bool = False
    cache_owner: str = Field("", exclude_if=operator.not_)

    @property
    def grammar(self) -> str | None:
        """The grammar of the whole answer: that of the freeform tool that must be called."""
        return None if self.tool_choice in TOOL_CHOICES else self.grammars.get(self.tool_choice)

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("exactly one of messages and prompt is needed")
        return self


def _without_search(value: Any) -> Any:
    return value.removeprefix("search_") if isinstance(value, str) else value


InputType = Annotated[Literal["query", "document"], BeforeValidator(_without_search)]
"""The purpose of a text to embed. Cohere's `search_query` and `search_document` mean the same."""


class EmbedRequest(Frozen):
    """Texts to embed. `dimensions` cuts the vectors and normalises them again. `truncate` False refuses long texts.

    `input_type`: the model's own prompt for such texts goes before them; None: before plain texts there is none, unless
    the model's files say so. `options.num_ctx`: texts are cut to so many tokens.
    """

    request_id: str = ""
    inputs: tuple[str, ...]
    input_type: InputType | None = None
    truncate: bool = True
    normalize: bool = True
    dimensions: int | None = None
    options: Options = Options()


class EmbedResult(Frozen):
    """One vector for each input, the number of tokens that were read, and durations in nanoseconds."""

    embeddings: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    queue_ns: int = 0
    load_ns: int = 0
    total_ns: int = 0
