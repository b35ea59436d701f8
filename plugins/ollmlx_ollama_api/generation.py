"""`/api/generate` and `/api/chat`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from ollmlx import ModelName, closing
from ollmlx.errors import InvalidRequest
from ollmlx.types import Answer, GenerateRequest
from ollmlx.web import NDJSON, caller, describe, json_answer, ndjson, read_model, tracked
from ollmlx_ollama_api import schemas
from ollmlx_ollama_api.generation_request import ChatBody, GenerateBody, Generation
from ollmlx_ollama_api.records import Records

if TYPE_CHECKING:
    from quart import Blueprint, Response

    from ollmlx import Service

BOTH = ("application/json", NDJSON)


def add_routes(made: Blueprint, service: Service) -> None:
    """Add them to the family's Blueprint."""

    @made.post("/api/generate")
    @describe("Continue a prompt.", body=GenerateBody, answer=schemas.GENERATED, content=BOTH, error=schemas.ERROR)
    async def generate() -> Response:
        body = await read_model(GenerateBody)
        name = body.generated_name()
        records = Records(body.asked, chat=False, context=not body.raw)
        return await _answer(service, name, body, records)

    @made.post("/api/chat")
    @describe("Chat.", body=ChatBody, answer=schemas.CHATTED, content=BOTH, error=schemas.ERROR)
    async def chat() -> Response:
        body = await read_model(ChatBody)
        name = body.model_name()
        return await _answer(service, name, body, Records(body.asked, chat=True))


async def _answer(service: Service, name: ModelName, body: GenerateBody | ChatBody, records: Records) -> Response:
    if body.only_loads:
        return await load_or_unload(service, name, body, records)
    request = body.to_vocabulary()
    lines = _lines(service, name, body, request, records)
    if body.stream:
        return await ndjson(lines)
    events = tracked(service.generate(name, request, caller=caller(body.asked), keep_alive=body.keep_alive))
    async with closing(events):
        return json_answer(records.whole(await Answer.gather(events)))


async def _lines(
    service: Service, name: ModelName, body: Generation, request: GenerateRequest, records: Records
) -> AsyncGenerator[bytes, None]:
    events = tracked(service.generate(name, request, caller=caller(body.asked), keep_alive=body.keep_alive))
    async with closing(events):
        async for event in events:
            line = records.line(event)
            if line is not None:
                yield line


async def load_or_unload(
    service: Service, name: ModelName, body: GenerateBody | ChatBody, records: Records
) -> Response:
    """Have the model loaded, or let it go; one object, never a stream."""
    asked = body.shared()["options"]  # what is wrong with the others is said now, too, not with the first prompt
    if body.unloads:
        caller(body.asked)
        await service.unload(name)
        return json_answer(records.bare("unload"))
    if isinstance(body, GenerateBody) and body.raw and (body.template or body.system or body.context):
        raise InvalidRequest("raw mode does not support template, system, or context")
    await service.load(name, caller=caller(body.asked), keep_alive=body.keep_alive, options=asked)
    return json_answer(records.bare("load"))
