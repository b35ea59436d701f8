"""`/v1/responses`: the named events of a stream, and the response object. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ollmlx.types import Done, Event, Text, Thinking, ToolCall, ToolCalled
from ollmlx_openai_api.chat_response import json_text, token_list
from ollmlx_openai_api.responses_request import ResponsesRequest


def response(id_: str, request: ResponsesRequest, created: int, **changes: Any) -> dict[str, Any]:
    """Return the response object; `changes` replaces the fields that grow during generation."""
    return {
        "id": id_,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning.effort, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": {"format": request.text.format.model_dump(by_alias=True, exclude_none=True)},
        "tool_choice": request.tool_choice,
        "tools": list(request.tools),
        "top_p": request.top_p,
        "truncation": request.truncation,
        "usage": None,
        "metadata": request.metadata,
    } | changes


def usage(done: Done) -> dict[str, Any]:
    """Return the token counts under the names of this API."""
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": done.prompt_tokens + done.generated_tokens,
    }


_CALLS = {
    "function": ("fc", "function_call"),
    "custom": ("ctc", "custom_tool_call"),
    "local_shell": ("lsh", "local_shell_call"),
}
"""The prefix of a call's id, and its type, by the kind of the tool."""


def _shell_action(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the action of a shell call. A command that the model wrote as one line is given to a shell."""
    command = arguments.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else ["sh", "-c", str(command or "")]
    stated = {key: arguments[key] for key in ("working_directory", "timeout_ms") if arguments.get(key) is not None}
    return {"type": "exec", "command": words, "env": {}, **stated}


class ResponseEvents:
    """Builds the output item by item and makes the events; `result` is the response object after `Done`."""

    def __init__(self, id_: str, request: ResponsesRequest, created: int) -> None:
        self._id, self._request, self._created = id_, request, created
        self._tools = request.response_tools()
        self._begun = False
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._open: str | None = None
        self._text: list[str] = []
        self._tokens: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None

    def start(self) -> Iterator[dict[str, Any]]:
        """Yield the two events that begin every stream, once."""
        if not self._begun:
            self._begun = True
            for name in ("response.created", "response.in_progress"):
                yield self._event(name, response=self._response())

    def alive(self) -> Iterator[dict[str, Any]]:
        """Yield an event that says only that the response is being made; before it, the events that begin a stream."""
        if self._begun:
            yield self._event("response.in_progress", response=self._response())
        yield from self.start()

    def events(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the stream's events for an event of the runner."""
        match event:
            case Text() if event.text or event.logprobs:
                yield from self._begin("message")
                self._text.append(event.text)
                tokens = token_list(event.logprobs)
                self._tokens += tokens
                yield self._at("response.output_text.delta", content_index=0, delta=event.text, logprobs=tokens)
            case Thinking() if event.text:
                yield from self._begin("reasoning")
                self._text.append(event.text)
                yield self._at("response.reasoning_summary_text.delta", summary_index=0, delta=event.text)
            case ToolCalled():
                yield from self._call(event.call)
            case Done():
                yield from self._end(event)

    def failed(self, message: str, code: str) -> dict[str, Any]:
        error = {"code": code, "message": message}
        return self._event("response.failed", response=self._response(status="failed", error=error))

    def _response(self, **changes: Any) -> dict[str, Any]:
        return response(self._id, self._request, self._created, **({"output": list(self._output)} | changes))

    def _event(self, name: str, /, **fields: Any) -> dict[str, Any]:
        self._sequence += 1
        return {"type": name, "sequence_number": self._sequence - 1, **fields}

    def _at(self, name: str, /, **fields: Any) -> dict[str, Any]:
        """Return an event about the last item of the output, which is being made."""
        index = len(self._output) - 1
        return self._event(name, item_id=self._output[index]["id"], output_index=index, **fields)

    def _add(self, item: dict[str, Any]) -> dict[str, Any]:
        self._output.append(item)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _done(self, item: dict[str, Any]) -> dict[str, Any]:
        self._output[-1] = item
        return self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _name(self, prefix: str) -> str:
        return f"{prefix}_{self._id.removeprefix('resp_')}_{len(self._output)}"

    def _begin(self, kind: str) -> Iterator[dict[str, Any]]:
        if self._open == kind:
            return
        yield from self._close()
        self._open = kind
        if kind == "message":
            item = {"id": self._name("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
            yield self._add({**item, "content": []})
            yield self._at("response.content_part.added", content_index=0, part=_part("", []))
        else:
            yield self._add({"id": self._name("rs"), "type": "reasoning", "summary": []})
            part = {"type": "summary_text", "text": ""}
            yield self._at("response.reasoning_summary_part.added", summary_index=0, part=part)

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        text, tokens, kind = "".join(self._text), self._tokens, self._open
        self._text, self._tokens, self._open = [], [], None
        item = self._output[-1]
        if kind == "message":
            part = _part(text, tokens)
            yield self._at("response.output_text.done", content_index=0, text=text, logprobs=tokens)
            yield self._at("response.content_part.done", content_index=0, part=part)
            yield self._done({**item, "status": "completed", "content": [part]})
        else:
            summary = {"type": "summary_text", "text": text}
            yield self._at("response.reasoning_summary_text.done", summary_index=0, text=text)
            yield self._at("response.reasoning_summary_part.done", summary_index=0, part=summary)
            yield self._done({**item, "summary": [summary]})

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self._close()
        tool = self._tools.client_tool(call.name)
        prefix, type_ = _CALLS[tool.kind]
        id_ = self._name(prefix)
        item = {"id": id_, "type": type_, "call_id": call.id or id_}
        named = item | {"name": tool.name} | ({"namespace": tool.namespace} if tool.namespace is not None else {})
        match tool.kind:
            case "function":
                yield from self._function_call(named, call)
            case "custom":
                yield from self._custom_call(named, call)
            case "local_shell":
                shell = {**item, "action": _shell_action(call.arguments)}
                yield self._add({**shell, "status": "in_progress"})
                yield self._done({**shell, "status": "completed"})

    def _function_call(self, item: dict[str, Any], call: ToolCall) -> Iterator[dict[str, Any]]:
        arguments = json_text(call.arguments)
        yield self._add({**item, "status": "in_progress", "arguments": ""})
        yield self._at("response.function_call_arguments.delta", delta=arguments)
        yield self._at("response.function_call_arguments.done", name=item["name"], arguments=arguments)
        yield self._done({**item, "status": "completed", "arguments": arguments})

    def _custom_call(self, item: dict[str, Any], call: ToolCall) -> Iterator[dict[str, Any]]:
        stated = call.arguments.get("input")
        text = stated if isinstance(stated, str) else json_text(call.arguments)
        yield self._add({**item, "status": "in_progress", "input": ""})
        yield self._at("response.custom_tool_call_input.delta", delta=text)
        yield self._at("response.custom_tool_call_input.done", input=text)
        yield self._done({**item, "status": "completed", "input": text})

    def _end(self, done: Done) -> Iterator[dict[str, Any]]:
        yield from self._close()
        cut = done.reason == "length"
        self.result = self._response(
            status="incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            usage=usage(done),
        )
        yield self._event("response.incomplete" if cut else "response.completed", response=self.result)


def _part(text: str, tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": tokens}
