"""A whole generation, gathered from its events: what a client that does not stream is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ollmlx.errors import RunnerFailed, from_kind
from ollmlx.model.events import Admitted, Done, Event, Failed, Text, Thinking, TokenLogprob, ToolCalled
from ollmlx.model.frozen import Frozen
from ollmlx.model.message import ToolCall


class Answer(Frozen):
    """The text, the reasoning, the tool calls and the figures of one generation."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    admitted: Admitted = Admitted()
    done: Done

    @classmethod
    async def gather(cls, events: AsyncIterator[Event]) -> Answer:
        """Read a stream to its end. Raises what the stream reports, and RunnerFailed when it ends without `Done`."""
        text: list[str] = []
        thinking: list[str] = []
        calls: list[ToolCall] = []
        logprobs: list[TokenLogprob] = []
        admitted, done = Admitted(), None
        async for event in events:
            match event:
                case Text():
                    text.append(event.text)
                    logprobs.extend(event.logprobs)
                case Thinking():
                    thinking.append(event.text)
                    logprobs.extend(event.logprobs)
                case ToolCalled():
                    calls.append(event.call)
                case Admitted():
                    admitted = event
                case Done():
                    done = event
                case Failed():
                    raise from_kind(event.kind, event.message, code=event.code)
        if done is None:
            raise RunnerFailed("the stream ended without a final record")
        return cls(
            text="".join(text),
            thinking="".join(thinking),
            tool_calls=tuple(calls),
            logprobs=tuple(logprobs),
            admitted=admitted,
            done=done,
        )
