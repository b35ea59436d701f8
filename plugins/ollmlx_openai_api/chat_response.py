"""`/v1/chat/completions`: the chunks of a stream, and the completion object of a whole answer. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ollmlx.types import Answer, Done, Event, Text, Thinking, TokenLogprob, ToolCall, ToolCalled

Frame = dict[str, Any]
"""The fields that the response to a request, or all chunks of it, have in common: id, object, created, model."""


def usage(ends: Sequence[Done], choices: int = 1) -> dict[str, Any]:
    """Count the tokens of a request. Each `choices` consecutive ends share one prompt, which is counted once."""
    prompts = [ends[at : at + choices] for at in range(0, len(ends), choices)]
    prompt = sum(max(end.prompt_tokens for end in sharing) for sharing in prompts)
    cached = sum(min(end.cached_tokens for end in sharing) for sharing in prompts)
    generated = sum(end.generated_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any] | None:
    return {"content": token_list(tokens)} if tokens else None


def token_list(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [{**_token(token), "top_logprobs": [_token(top) for top in token.top]} for token in tokens]


def _token(token: TokenLogprob) -> dict[str, Any]:
    encoded = token.token.encode("utf-8", "surrogatepass")
    return {"token": token.token, "logprob": token.logprob, "bytes": list(encoded)}


def tool_call(call: ToolCall, index: int) -> dict[str, Any]:
    """Return the tool call number `index` of an answer. OpenAI has the arguments as JSON text."""
    function = {"name": call.name, "arguments": json_text(call.arguments)}
    return {"id": call.id or f"call_{index}", "type": "function", "function": function}


def json_text(value: dict[str, Any]) -> str:
    """Write the arguments of a call, which may have integers of any size."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def finish_reason(done: Done, called: bool) -> str:
    """Return `length`, `tool_calls` when the model called a tool, or `stop`."""
    if done.reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def completion(frame: Frame, answers: list[Answer]) -> dict[str, Any]:
    choices = [_choice(index, answer) for index, answer in enumerate(answers)]
    return {**frame, "choices": choices, "usage": usage([answer.done for answer in answers], len(answers))}


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if answer.tool_calls else "")}
    if answer.thinking:
        message["reasoning"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = [tool_call(call, index) for index, call in enumerate(answer.tool_calls)]
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs(answer.logprobs),
        "finish_reason": finish_reason(answer.done, bool(answer.tool_calls)),
    }


class ChatChunks:
    """Turns the events of one choice into chunks: the role once, then deltas, then a chunk with the finish reason."""

    def __init__(self, frame: Frame, index: int = 0) -> None:
        self._frame = frame
        self._index = index
        self._begun = False
        self._calls = 0

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the chunks of an event: one for most events, none for `Prefill`."""
        match event:
            case Text() if event.text or event.logprobs:
                yield self._delta({"content": event.text}, event.logprobs)
            case Thinking() if event.text:
                yield self._delta({"reasoning": event.text}, event.logprobs)
            case ToolCalled():
                yield self._delta({"tool_calls": [{"index": self._calls, **tool_call(event.call, self._calls)}]})
                self._calls += 1
            case Done():
                if not self._begun:
                    yield self._delta({"content": ""})
                yield self._chunk({}, finish=finish_reason(event, self._calls > 0))

    def _delta(self, delta: dict[str, Any], tokens: tuple[TokenLogprob, ...] = ()) -> Any:
        if not self._begun:
            self._begun = True
            delta = {"role": "assistant", "content": "", **delta}
        return self._chunk(delta, tokens)

    def _chunk(self, delta: dict[str, Any], tokens: tuple[TokenLogprob, ...] = (), finish: str | None = None) -> Any:
        choice: dict[str, Any] = {"index": self._index, "delta": delta, "finish_reason": finish}
        if tokens:
            choice["logprobs"] = logprobs(tokens)
        return {**self._frame, "choices": [choice]}
