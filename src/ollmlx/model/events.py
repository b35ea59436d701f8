"""The events of a generation, and how a stream of them is read and closed.

Order: `Admitted` (from the daemon), any number of `Prefill`, then `Text`, `Thinking`, `ToolCalled` and `RawCall` in
the order in which they are generated, then exactly one `Done` or `Failed`. Of a transcription, `Listened` and `Segment`
stand in their place; of speech, `Spoken`. A runner's stream that ends without either
has failed.
The daemon raises both as errors: a stream of its service ends with `Done` or raises.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field

from ollmlx.model.request import Frozen, ToolCall


class TokenLogprob(Frozen):
    """A token's text and its natural log-probability before sampling filters; alternatives best first."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    id: int | None = None


class Admitted(Frozen):
    """The request has a runner. The daemon makes this event. `load_ns` is 0 if the model was loaded already."""

    type: Literal["admitted"] = "admitted"
    queue_ns: int = 0
    load_ns: int = 0
    runner: str = ""


class Prefill(Frozen):
    """Progress of the prompt: `done` of `total` tokens are computed, and `cached` of these came from the prefix cache.

    `dropped`: prompt tokens that were left out so that the prompt fits the context length. `missed`: the place where a
    conversation differs from a recent one that it seems to continue, and the words there; the daemon fills it in.
    """

    type: Literal["prefill"] = "prefill"
    done: int
    total: int
    cached: int = 0
    dropped: int = 0
    missed: tuple[str, str] | None = None


class Text(Frozen):
    """A piece of the answer. It holds whole code points, and no part of a stop string or of a tag."""

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


class RawCall(Frozen):
    """A tool call as the model wrote it, when the engine cannot read it: the text between the marks of a call.

    `name` is the function where it is known; `text` are then its arguments. The daemon reads it, mends it or tells the
    client that it is broken: streams of its service have no such event.
    """

    type: Literal["raw_call"] = "raw_call"
    text: str
    name: str | None = None


class Listened(Frozen):
    """Progress of a transcription: the audio before this second has been read."""

    type: Literal["listened"] = "listened"
    seconds: float


class Word(Frozen):
    """A word that was heard, with the seconds between which it was spoken."""

    word: str
    start: float
    end: float


class Segment(Frozen):
    """A piece of what was heard, mostly a sentence. Times are in seconds; the figures are Whisper's own."""

    type: Literal["segment"] = "segment"
    text: str
    start: float
    end: float
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()


class Spoken(Frozen):
    """The next bytes of an audio file. In JSON they are base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    type: Literal["spoken"] = "spoken"
    data: bytes


class Done(Frozen):
    """The normal end of a generation. Durations are in nanoseconds.

    `prompt_tokens` includes cached tokens. `context`: the token ids of prompt and answer. `stop`: the stop string that
    ended the answer. `dropped`: as in Prefill. `seconds`: of audio; `language`: the one that was heard.
    The daemon fills in `queue_ns` and `load_ns`.
    """

    type: Literal["done"] = "done"
    reason: Literal["stop", "length"] = "stop"
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
    seconds: float = Field(0.0, exclude_if=operator.not_)
    language: str = Field("", exclude_if=operator.not_)


class Failed(Frozen):
    """The end of a generation that failed. `kind`: a kind of `ollmlx.errors`. `code`: a finding code or None.

    `excess`, of kind `context_exceeded`: the tokens of the prompt, and the most that fit.
    """

    type: Literal["error"] = "error"
    kind: str
    message: str
    code: str | None = None
    excess: tuple[int, int] | None = None


Event = Annotated[
    Admitted | Prefill | Text | Thinking | ToolCalled | RawCall | Listened | Segment | Spoken | Done | Failed,
    Field(discriminator="type"),
]


class Answer(Frozen):
    """A whole generation, gathered from its events: text, reasoning, tool calls and figures."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    admitted: Admitted = Admitted()
    done: Done

    @classmethod
    async def gather(cls, events: AsyncIterator[Event]) -> Answer:
        """Read a stream to its end. A stream of the service ends with `Done`, or raises the error that ended it."""
        found = [event async for event in events]
        pieces = [event for event in found if isinstance(event, Text | Thinking)]
        done = next((event for event in found if isinstance(event, Done)), None)
        assert done is not None, "the stream ended without Done"
        return cls(
            text="".join(event.text for event in pieces if isinstance(event, Text)),
            thinking="".join(event.text for event in pieces if isinstance(event, Thinking)),
            tool_calls=tuple(event.call for event in found if isinstance(event, ToolCalled)),
            logprobs=tuple(logprob for event in pieces for logprob in event.logprobs),
            admitted=next((event for event in found if isinstance(event, Admitted)), Admitted()),
            done=done,
        )


T = TypeVar("T")


@asynccontextmanager
async def closing(stream: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a stream when the block ends: as `aclosing`, and also for iterators that have no `aclose`.

    An abandoned generator, and the lease that it holds, would otherwise be freed only by the garbage collector.
    """
    try:
        yield stream
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
