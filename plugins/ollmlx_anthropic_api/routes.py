"""The family's Blueprint: the routes that Anthropic's clients call, and errors in Anthropic's shape."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response

from ollmlx import ModelName, closing
from ollmlx.types import Answer, Event, GenerateRequest
from ollmlx.web import Failure, caller, current, declare_errors, describe, json_answer, read_model, sse, tracked
from ollmlx_anthropic_api.messages_request import ConversationBody, MessagesRequest
from ollmlx_anthropic_api.messages_response import COUNT, ERROR, MESSAGE, MessageEvents, message

if TYPE_CHECKING:
    from ollmlx import Service

BOTH = ("application/json", "text/event-stream")
_ERROR_TYPES = {
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "limit_reached": "rate_limit_error",
    "busy": "overloaded_error",
    "runner_unavailable": "overloaded_error",
    "timeout": "timeout_error",
}
_CLIENT_ERRORS = range(400, 500)


def shape(failure: Failure) -> dict[str, Any]:
    """Return `{"type": "error", "error": {"type", "message"}, "request_id"}`."""
    fallback = "invalid_request_error" if failure.status in _CLIENT_ERRORS else "api_error"
    kind = _ERROR_TYPES.get(failure.kind, fallback)
    return {"type": "error", "error": {"type": kind, "message": _sentence(failure)}, "request_id": failure.request_id}


def _sentence(failure: Failure) -> str:
    """Return the message. Anthropic's clients shorten a conversation when they read these words."""
    if failure.kind != "context_exceeded":
        return failure.message
    if failure.excess is None:
        return f"prompt is too long: {failure.message}"
    tokens, most = failure.excess
    return f"prompt is too long: {tokens} tokens > {most} maximum"


def error_event(failure: Failure) -> bytes:
    return b"event: error\ndata: " + orjson.dumps(shape(failure)) + b"\n\n"


def alive() -> bytes:
    """Encode the event of a stream that has nothing to say yet."""
    return b'event: ping\ndata: {"type":"ping"}\n\n'


def blueprint(service: Service) -> Blueprint:
    made = Blueprint("anthropic", __name__)
    declare_errors(made, shape, "/v1/messages")

    @made.after_request
    async def name_request(response: Response) -> Response:
        response.headers["request-id"] = current().id  # where Anthropic's clients read it
        return response

    @made.post("/v1/messages")
    @describe("Answer a conversation.", body=MessagesRequest, answer=MESSAGE, content=BOTH, error=ERROR)
    async def messages() -> Response:
        body = await read_model(MessagesRequest)
        model = await service.show(ModelName.parse(body.model))
        can_think = "thinking" in model.capabilities
        request = await _translated(body, lambda: body.to_vocabulary(can_think=can_think))
        events = tracked(service.generate(model, request, caller=caller(body.model)))
        id_ = f"msg_{secrets.token_hex(12)}"
        if body.stream:
            return await sse(_records(events, MessageEvents(id_, body.model)), error_event, alive)
        async with closing(events):
            return json_answer(message(id_, body.model, await Answer.gather(events)))

    @made.post("/v1/messages/count_tokens")
    @describe("Count the tokens of a conversation.", body=ConversationBody, answer=COUNT, error=ERROR)
    async def count_tokens() -> Response:
        body = await read_model(ConversationBody)
        request = await _translated(body, lambda: GenerateRequest(messages=body.conversation(), tools=body.tool_list()))
        count = await service.count_tokens(ModelName.parse(body.model), request, caller=caller(body.model))
        return json_answer({"input_tokens": count})

    return made


async def _translated(body: ConversationBody, translate: Callable[[], GenerateRequest]) -> GenerateRequest:
    """Return the body's translation; in a thread when it waits for another process."""
    return await asyncio.to_thread(translate) if body.blocking else translate()


async def _records(events: AsyncIterator[Event], stream: MessageEvents) -> AsyncGenerator[bytes, None]:
    async with closing(events):
        async for event in events:
            for name, data in stream.events(event):
                yield b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
