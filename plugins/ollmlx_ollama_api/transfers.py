"""`/api/pull` and `/api/push`: long work, told step by step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import orjson

from ollmlx import closing
from ollmlx.types import PullProgress
from ollmlx.web import NDJSON, caller, describe, json_answer, ndjson, read_model
from ollmlx_ollama_api import schemas
from ollmlx_ollama_api.management_request import PullBody

if TYPE_CHECKING:
    from quart import Blueprint, Response

    from ollmlx import Service

BOTH = ("application/json", NDJSON)


def add_routes(made: Blueprint, service: Service) -> None:
    """Add them to the family's Blueprint."""

    @made.post("/api/pull")
    @describe("Fetch a model.", body=PullBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def pull() -> Response:
        body = await read_model(PullBody)
        name = body.model_name()
        caller(body.asked)
        return await told(service.pull(name, insecure=body.insecure), stream=body.stream)

    @made.post("/api/push")
    @describe("Upload a model to a hub.", body=PullBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def push() -> Response:
        body = await read_model(PullBody)
        name = body.model_name()
        caller(body.asked)
        return await told(service.push(name, insecure=body.insecure), stream=body.stream)


async def told(steps: AsyncIterator[PullProgress], *, stream: bool) -> Response:
    """The answer of long work: a line a step, or the last step when it is over."""
    if stream:
        return await ndjson(_lines(steps))
    last = PullProgress(status="success")
    async with closing(steps):
        async for step in steps:
            last = step
    return json_answer(last.model_dump(exclude_none=True))


async def _lines(steps: AsyncIterator[PullProgress]) -> AsyncGenerator[bytes, None]:
    async with closing(steps):
        async for step in steps:
            yield orjson.dumps(step.model_dump(exclude_none=True)) + b"\n"
