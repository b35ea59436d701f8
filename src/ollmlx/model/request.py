"""What a client asks for, free of any wire dialect."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from ollmlx.model.frozen import Frozen
from ollmlx.model.message import Message, Tool
from ollmlx.model.options import Options


class Caller(Frozen):
    """Who asks: for logs, fair shares and priorities. `client` is an API key's fingerprint, else an address."""

    request_id: str
    client: str = "local"
    priority: Literal["high", "normal", "low"] = "normal"
    route: str = ""


class GenerateRequest(Frozen):
    """One generation: a conversation (`messages`, templated in the runner) or plain text (`prompt`, as it is).

    `context`: token ids that precede the prompt. `suffix`: fill in the middle, where the template supports it.
    `format`: "json", or a JSON schema the answer must satisfy. `top_logprobs`: None for none, else 0..20 alternatives.
    `truncate`: drop the oldest turns that do not fit (visibly); False refuses. `shift`: keep generating past the
    context by dropping old tokens. `continue_last`: the last message is the assistant's and is continued, not answered.
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
    format: Literal["json"] | dict[str, Any] | None = None
    options: Options = Options()
    top_logprobs: int | None = None
    truncate: bool = True
    shift: bool = True
    continue_last: bool = False

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("exactly one of messages and prompt is needed")
        return self


class EmbedRequest(Frozen):
    """Texts to embed; `dimensions` cuts the vectors and normalises them again; `truncate` False refuses long texts."""

    request_id: str = ""
    inputs: tuple[str, ...]
    truncate: bool = True
    normalize: bool = True
    dimensions: int | None = None
    options: Options = Options()


class EmbedResult(Frozen):
    """One vector per input, and how many tokens were read."""

    embeddings: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    queue_ns: int = 0
    load_ns: int = 0
    total_ns: int = 0
