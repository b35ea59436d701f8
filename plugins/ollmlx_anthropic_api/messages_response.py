"""`/v1/messages`: the events of a stream, the message object of a whole answer, and the schemas of both. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ollmlx.types import Answer, Done, Event, Prefill, Text, Thinking, ToolCall, ToolCalled
from ollmlx.web import INTEGER, OBJECT, STRING, listing, nullable, one_of, record

NamedEvent = tuple[str, dict[str, Any]]
"""A server-sent event: its name, which Anthropic's clients read, and its data."""

_BLOCK = {
    "oneOf": [
        record({"type": one_of("text"), "text": STRING}),
        record({"type": one_of("thinking"), "thinking": STRING, "signature": STRING}),
        record({"type": one_of("tool_use"), "id": STRING, "name": STRING, "input": OBJECT}),
    ]
}
MESSAGE = record(
    {
        "id": STRING,
        "type": one_of("message"),
        "role": one_of("assistant"),
        "model": STRING,
        "content": listing(_BLOCK),
        "stop_reason": one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
        "stop_sequence": nullable(STRING),
        "usage": record({"input_tokens": INTEGER, "output_tokens": INTEGER}, cache_read_input_tokens=INTEGER),
    }
)
COUNT = record({"input_tokens": INTEGER})
ERROR = record(
    {"type": {"const": "error"}, "error": record({"type": STRING, "message": STRING})},
    request_id={"type": ["string", "null"]},
)


def stop_reason(done: Done, called: bool) -> str:
    """Return the reason why the model stopped, in Anthropic's words."""
    if done.reason == "length":
        return "max_tokens"
    if called:
        return "tool_use"
    return "stop_sequence" if done.stop is not None else "end_turn"


def usage(done: Done) -> dict[str, int]:
    """Count the tokens. Anthropic counts cached tokens of the prompt apart from the others."""
    return {
        "input_tokens": done.prompt_tokens - done.cached_tokens,
        "cache_read_input_tokens": done.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": done.generated_tokens,
    }


def message(id_: str, model: str, answer: Answer) -> dict[str, Any]:
    """Return the message of a request that does not stream. `content` is a list also when it is empty."""
    content: list[dict[str, Any]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content.extend(_tool_use(call, index) for index, call in enumerate(answer.tool_calls))
    return _message(id_, model, content, stop_reason(answer.done, bool(answer.tool_calls)), answer.done)


def _message(id_: str, model: str, content: list[dict[str, Any]], reason: str | None, done: Done) -> dict[str, Any]:
    return {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": done.stop,
        "usage": usage(done),
    }


def _tool_use(call: ToolCall, index: int) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id or f"toolu_{index}", "name": call.name, "input": call.arguments}


class MessageEvents:
    """Turns events into Anthropic's stream: message_start, one block after another, message_delta, message_stop."""

    def __init__(self, id_: str, model: str) -> None:
        self._id = id_
        self._model = model
        self._started = False
        self._block = -1
        self._open: str | None = None
        self._calls = 0

    def events(self, event: Event) -> Iterator[NamedEvent]:
        """Yield the stream's events for an event of the runner. `Prefill` opens the message and counts the prompt."""
        match event:
            case Prefill():
                yield from self._start(event.total, event.cached)
            case Text() if event.text:
                yield from self._start()
                yield from self._ensure("text", {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.text})
            case Thinking() if event.text:
                yield from self._start()
                yield from self._ensure("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": event.text})
            case ToolCalled():
                yield from self._start()
                yield from self._tool(event.call)
            case Done():
                yield from self._start(event.prompt_tokens, event.cached_tokens)
                yield from self._end(event)

    def _start(self, prompt: int = 0, cached: int = 0) -> Iterator[NamedEvent]:
        if self._started:
            return
        self._started = True
        body = _message(self._id, self._model, [], None, Done(prompt_tokens=prompt, cached_tokens=cached))
        yield "message_start", {"type": "message_start", "message": body}

    def _ensure(self, kind: str, block: dict[str, Any]) -> Iterator[NamedEvent]:
        if self._open == kind:
            return
        yield from self._close()
        self._block += 1
        self._open = kind
        yield "content_block_start", {"type": "content_block_start", "index": self._block, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> NamedEvent:
        return "content_block_delta", {"type": "content_block_delta", "index": self._block, "delta": delta}

    def _close(self) -> Iterator[NamedEvent]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": ""})
        self._open = None
        yield "content_block_stop", {"type": "content_block_stop", "index": self._block}

    def _tool(self, call: ToolCall) -> Iterator[NamedEvent]:
        yield from self._close()
        yield from self._ensure("tool_use", {**_tool_use(call, self._calls), "input": {}})
        self._calls += 1
        arguments = json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))
        yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        yield from self._close()

    def _end(self, done: Done) -> Iterator[NamedEvent]:
        yield from self._close()
        delta = {"stop_reason": stop_reason(done, self._calls > 0), "stop_sequence": done.stop}
        yield "message_delta", {"type": "message_delta", "delta": delta, "usage": usage(done)}
        yield "message_stop", {"type": "message_stop"}
