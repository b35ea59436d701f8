"""What a generation sends back, one frozen event after the other.

Order: `Admitted` (from the daemon), any number of `Prefill`, then `Text`, `Thinking` and `ToolCalled` as they come,
then exactly one `Done` or `Failed`. A stream that ends without one of these two has failed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ollmlx.model.frozen import Frozen
from ollmlx.model.message import ToolCall


class TokenLogprob(Frozen):
    """A token's text and its natural log-probability before sampling filters; alternatives best first."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    id: int | None = None


class Admitted(Frozen):
    """The request holds a runner. Made by the daemon; times in nanoseconds; `load_ns` is 0 when it was loaded."""

    type: Literal["admitted"] = "admitted"
    queue_ns: int = 0
    load_ns: int = 0
    runner: str = ""


class Prefill(Frozen):
    """Prompt tokens computed so far, of `total`, of which `cached` came from the prefix cache.

    `dropped`: prompt tokens left out so that the prompt fits the context length.
    """

    type: Literal["prefill"] = "prefill"
    done: int
    total: int
    cached: int = 0
    dropped: int = 0


class Text(Frozen):
    """A piece of the answer; never half a code point, never a part of a stop string or a tag."""

    type: Literal["text"] = "text"
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Thinking(Frozen):
    """A piece of the model's reasoning."""

    type: Literal["thinking"] = "thinking"
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ToolCalled(Frozen):
    """One whole tool call."""

    type: Literal["tool_call"] = "tool_call"
    call: ToolCall


class Done(Frozen):
    """The normal end.

    `prompt_tokens` is the logical length of the prompt, cached tokens included; durations are nanoseconds;
    `context` are the ids of prompt and answer; `stop` is the stop string that was hit; `dropped` as in Prefill.
    `queue_ns` and `load_ns` are filled in by the daemon.
    """

    type: Literal["done"] = "done"
    reason: Literal["stop", "length", "load", "unload"] = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    queue_ns: int = 0
    load_ns: int = 0
    total_ns: int = 0
    dropped: int = 0
    stop: str | None = None
    context: tuple[int, ...] = ()


class Failed(Frozen):
    """The abnormal end: `kind` is a kind of `ollmlx.errors`, `code` a runbook where one exists."""

    type: Literal["error"] = "error"
    kind: str
    message: str
    code: str | None = None


Event = Annotated[
    Admitted | Prefill | Text | Thinking | ToolCalled | Done | Failed,
    Field(discriminator="type"),
]
