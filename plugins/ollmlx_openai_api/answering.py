"""Answers to generation requests: whole or as a stream, with one choice or several; errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ollmlx import ModelName, closing
from ollmlx.types import Answer, Done, Event, GenerateRequest
from ollmlx.web import Failure, caller, json_answer, tracked
from ollmlx_openai_api.chat_request import CompletionFields
from ollmlx_openai_api.chat_response import Frame, usage

if TYPE_CHECKING:
    from quart import Response

    from ollmlx import Service

logger = logging.getLogger(__name__)

CONTEXT_EXCEEDED = "context_exceeded"
END = b"data: [DONE]\n\n"
_ERROR_TYPES = {"not_found": "not_found_error", "unauthorized": "authentication_error", "forbidden": "permission_error",
                "limit_reached": "rate_limit_error"}  # fmt: skip
_CLIENT_ERRORS = range(400, 500)


class Chunks(Protocol):
    """Makes the chunks of one choice."""

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the chunks of an event."""


def encode(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def shape(failure: Failure) -> dict[str, Any]:
    """Return `{"error": {"message", "type", "param", "code"}}`; `code` is OpenAI's or the runbook's."""
    fallback = "invalid_request_error" if failure.status in _CLIENT_ERRORS else "api_error"
    kind = _ERROR_TYPES.get(failure.kind, fallback)
    message, code = told(failure)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def told(failure: Failure) -> tuple[str, str | None]:
    """Return the message and the code. OpenAI's clients shorten a conversation when they read this code."""
    if failure.kind == "limit_reached":
        return failure.message, "rate_limit_exceeded"
    if failure.kind != CONTEXT_EXCEEDED:
        return failure.message, failure.code
    message = failure.message
    if failure.excess is not None:
        tokens, most = failure.excess
        message = (
            f"This model's maximum context length is {most} tokens. However, your messages resulted in {tokens} "
            "tokens. Please reduce the length of the messages."
        )
    return message, "context_length_exceeded"


def error_event(failure: Failure) -> bytes:
    """Encode the last event of a stream that failed. `[DONE]` never follows it."""
    return encode(shape(failure))


def generate(service: Service, model: str, request: GenerateRequest) -> AsyncIterator[Event]:
    """Generate with a model, and record the figures for the access log."""
    return tracked(service.generate(ModelName.parse(model), request, caller=caller(model)))


async def whole(
    service: Service, model: str, wanted: list[GenerateRequest], body: Callable[[list[Answer]], dict[str, Any]]
) -> Response:
    """Gather all choices, then answer with the body that is made of them."""
    gathered: list[list[Event]] = [[] for _ in wanted]
    async with closing(_side_by_side(service, model, wanted)) as events:
        async for index, event in events:
            gathered[index].append(event)
    return json_answer(body([await Answer.gather(_replay(events)) for events in gathered]))


async def chunk_records(
    service: Service, body: CompletionFields, wanted: list[GenerateRequest], frame: Frame, makers: Sequence[Chunks]
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of all choices as they arrive, then the usage when it is asked for, then `[DONE]`."""
    ends: dict[int, Done] = {}
    async with closing(_side_by_side(service, body.model, wanted)) as events:
        async for index, event in events:
            for chunk in makers[index].chunks(event):
                yield encode(chunk)
            if isinstance(event, Done):
                ends[index] = event
    if body.stream_options.include_usage:
        counts = usage([ends[index] for index in range(len(makers))], body.n)
        yield encode({**frame, "choices": [], "usage": counts})
    yield END


async def _replay(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def requests(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """Return one request for each choice. The seed is shifted by the choice's index, so that the choices differ."""
    if count == 1:
        return [request]
    options = request.options
    seeds = ({"seed": options.seed + index} if options.seed >= 0 else {} for index in range(count))
    return [request.model_copy(update={"options": options.model_copy(update=seed)}) for seed in seeds]


async def _side_by_side(
    service: Service, model: str, wanted: list[GenerateRequest]
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield the events of all choices as they arrive, each with the index of its choice.

    The first choice that fails ends all of them, and its error is raised.
    """
    if len(wanted) == 1:
        async with closing(generate(service, model, wanted[0])) as events:
            async for event in events:
                yield 0, event
        return
    waiting: asyncio.Queue[tuple[int, Event] | Exception | None] = asyncio.Queue(maxsize=len(wanted))
    over = False

    async def follow(index: int) -> None:
        try:
            async with closing(generate(service, model, wanted[index])) as events:
                async for event in events:
                    await waiting.put((index, event))
            await waiting.put(None)
        except Exception as error:
            if over:  # the queue is no longer read, and may be full
                logger.exception("a choice did not end cleanly")
            else:
                await waiting.put(error)

    tasks = [asyncio.create_task(follow(index), name=f"choice-{index}") for index in range(len(wanted))]
    left = len(tasks)
    try:
        while left:
            item = await waiting.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
