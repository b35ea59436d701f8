"""Answering one generation request, whole or as a stream, whichever of the two completion APIs it came by."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from ollmlx import ModelName, closing
from ollmlx.errors import RunnerFailed
from ollmlx.types import Answer, Done, Event, GenerateRequest
from ollmlx.web import caller, json_answer, sse, tracked
from ollmlx_openai_api.choices import side_by_side
from ollmlx_openai_api.error_shape import error_event

if TYPE_CHECKING:
    from quart import Response

    from ollmlx import Service

END = b"data: [DONE]\n\n"


class Chunks(Protocol):
    """Makes the chunks of one choice."""

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]: ...

    def usage(self, ends: Sequence[Done]) -> dict[str, Any]: ...


def encode(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def generate(service: Service, model: str) -> Callable[[GenerateRequest], AsyncIterator[Event]]:
    """A function that generates with a model, followed for the log."""
    name = ModelName.parse(model)

    def run(request: GenerateRequest) -> AsyncIterator[Event]:
        return tracked(service.generate(name, request, caller=caller(model)))

    return run


async def whole(
    service: Service, model: str, wanted: list[GenerateRequest], body: Callable[[list[Answer]], dict[str, Any]]
) -> Response:
    """Gather every choice, then answer."""
    gathered: list[list[Event]] = [[] for _ in wanted]
    async with closing(side_by_side(generate(service, model), wanted)) as events:
        async for index, event in events:
            gathered[index].append(event)
    return json_answer(body([await Answer.gather(_replay(events)) for events in gathered]))


async def streamed(
    service: Service,
    model: str,
    wanted: list[GenerateRequest],
    makers: Sequence[Chunks],
    *,
    include_usage: bool,
) -> Response:
    """Stream the choices' chunks as they come, then usage when asked for, then `[DONE]`."""
    return await sse(_records(service, model, wanted, makers, include_usage), error_event)


async def _records(
    service: Service, model: str, wanted: list[GenerateRequest], makers: Sequence[Chunks], include_usage: bool
) -> AsyncGenerator[bytes, None]:
    ends: dict[int, Done] = {}
    async with closing(side_by_side(generate(service, model), wanted)) as events:
        async for index, event in events:
            for chunk in makers[index].chunks(event):
                yield encode(chunk)
            if isinstance(event, Done):
                ends[index] = event
    if len(ends) != len(makers):
        raise RunnerFailed("the answer ended without a final record", code="RUN002")
    if include_usage:
        yield encode(makers[0].usage([ends[index] for index in range(len(makers))]))
    yield END


async def _replay(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event
