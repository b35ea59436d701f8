"""The records that answer `/api/generate` and `/api/chat`: a line for each event, or one record for the whole answer.

All records of a request begin with the same bytes, which are made once; a token adds only its time and its text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson

from ollmlx.types import Answer, Done, Event, Text, Thinking, TokenLogprob, ToolCall, ToolCalled

Json = dict[str, Any]

_second = (0, "")


def now() -> str:
    """Return the time in UTC with microseconds. It is called for each token, so the text of the second is cached."""
    global _second  # noqa: PLW0603 - a cache of one
    at = time.time_ns()
    seconds, rest = divmod(at, 1_000_000_000)
    if seconds != _second[0]:
        _second = (seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S."))
    return f"{_second[1]}{rest // 1000:06d}Z"


class RecordEncoder:
    """Encodes the answer to one request, as a chat (`chat`) or as a continued prompt."""

    def __init__(self, model: str, *, chat: bool, context: bool = False) -> None:
        self._model = model
        self._chat = chat
        self._context = context
        self._calls = 0
        self._head = b'{"model":' + orjson.dumps(model) + b',"created_at":"'
        self._text = b'","message":{"role":"assistant","content":' if chat else b'","response":'
        self._tail = b'},"done":false}\n' if chat else b',"done":false}\n'

    def line(self, event: Event) -> bytes | None:
        """Encode the record of an event, newline included; None for an event that Ollama's clients do not get."""
        if type(event) is Text and not event.logprobs:
            return self._head + now().encode() + self._text + orjson.dumps(event.text) + self._tail
        match event:
            case Text():
                return _line(self._piece(content=event.text, logprobs=event.logprobs))
            case Thinking():
                return _line(self._piece(thinking=event.text, logprobs=event.logprobs))
            case ToolCalled():
                return _line(self._piece(calls=[event.call]))
            case Done():
                return _line(self._object(self._content(), **final(event, context=self._context)))
            case _:
                return None

    def alive(self) -> bytes:
        """Encode a record without text, for a stream that has nothing to say yet."""
        return _line(self._piece())

    def whole(self, answer: Answer) -> Json:
        """Return the record of a whole answer, for a client that does not stream."""
        content = self._content(answer.text, answer.thinking, answer.tool_calls)
        figures = final(answer.done, context=self._context)
        return self._object(content, **figures, **_logprobs(answer.logprobs))

    def bare(self, reason: str) -> Json:
        """Return the record for a request that only loads or unloads the model."""
        return self._object(self._content(), done=True, done_reason=reason)

    def rendered(self, prompt: str, images: int) -> Json:
        """Return the record for a request that only asks for the text of its prompt."""
        return self._object({"_debug_info": {"rendered_template": prompt, "image_count": images}})

    def _piece(
        self,
        content: str = "",
        thinking: str = "",
        calls: Iterable[ToolCall] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Json:
        return self._object(self._content(content, thinking, calls), done=False, **_logprobs(logprobs))

    def _object(self, content: Json, **more: Any) -> Json:
        return {"model": self._model, "created_at": now(), **content, **more}

    def _content(self, content: str = "", thinking: str = "", calls: Iterable[ToolCall] = ()) -> Json:
        extra: Json = {"thinking": thinking} if thinking else {}
        if encoded := [self._call(call) for call in calls]:
            extra["tool_calls"] = encoded
        if self._chat:
            return {"message": {"role": "assistant", "content": content, **extra}}
        return {"response": content, **extra}

    def _call(self, call: ToolCall) -> Json:
        index, self._calls = self._calls, self._calls + 1
        function = {"index": index, "name": call.name, "arguments": call.arguments}
        return {"id": call.id or f"call_{secrets.token_hex(4)}", "function": function}


def final(done: Done, *, context: bool) -> Json:
    """Return the figures of the last record: durations in nanoseconds, and numbers of tokens."""
    found: Json = {"done": True, "done_reason": done.reason}
    if context:
        found["context"] = list(done.context)
    found |= {
        "total_duration": done.total_ns,
        "load_duration": done.queue_ns + done.load_ns,
        "prompt_eval_count": done.prompt_tokens,
        "prompt_eval_duration": done.prefill_ns,
        "eval_count": done.generated_tokens,
        "eval_duration": done.decode_ns,
    }
    if done.cached_tokens:
        found["prompt_eval_cached_count"] = done.cached_tokens
    return found


def _logprobs(logprobs: tuple[TokenLogprob, ...]) -> Json:
    if not logprobs:
        return {}
    return {"logprobs": [_token(one, one.top) for one in logprobs]}


def _token(logprob: TokenLogprob, top: tuple[TokenLogprob, ...] = ()) -> Json:
    entry = {"token": logprob.token, "logprob": logprob.logprob, "bytes": list(logprob.token.encode())}
    return {**entry, "top_logprobs": [_token(other) for other in top]} if top else entry


def _line(record: Json) -> bytes:
    return orjson.dumps(record) + b"\n"
