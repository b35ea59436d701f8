"""The family's Blueprint: the routes under `/v1` that OpenAI's clients call."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from ollmlx import ModelName, closing
from ollmlx.types import GenerateRequest, InstalledModel
from ollmlx.web import caller, declare_errors, describe, embedded, json_answer, read_model, sse
from ollmlx_openai_api import chat_response, completions, schemas
from ollmlx_openai_api.answering import encode, generate, requests, shape, streamed, whole
from ollmlx_openai_api.chat_request import ChatRequest
from ollmlx_openai_api.embeddings import EmbeddingsRequest, embeddings
from ollmlx_openai_api.responses_request import ResponsesRequest
from ollmlx_openai_api.responses_response import ResponseEvents

if TYPE_CHECKING:
    from ollmlx import Service

BOTH = ("application/json", "text/event-stream")


def blueprint(service: Service) -> Blueprint:
    """Make the family's Blueprint over a service."""
    made = Blueprint("openai", __name__)
    declare_errors(made, shape, "/v1/")
    _add_chat(made, service)
    _add_completions(made, service)
    _add_responses(made, service)
    _add_embeddings(made, service)
    _add_models(made, service)
    return made


def _id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def _add_chat(made: Blueprint, service: Service) -> None:
    @made.post("/v1/chat/completions")
    @describe("Chat.", body=ChatRequest, answer=schemas.CHAT, content=BOTH, error=schemas.ERROR)
    async def chat() -> Response:
        body = await read_model(ChatRequest)
        id_, created = _id("chatcmpl-"), int(time.time())
        wanted = requests(body.to_vocabulary(), body.choices)
        if not body.stream:
            return await whole(
                service, body.model, wanted, lambda answers: chat_response.completion(id_, body.model, created, answers)
            )
        usage = bool(body.stream_options and body.stream_options.include_usage)
        makers = [
            chat_response.ChatChunks(id_, body.model, created, index, counted=usage) for index in range(body.choices)
        ]
        return await streamed(service, body.model, wanted, makers, include_usage=usage)


def _add_completions(made: Blueprint, service: Service) -> None:
    @made.post("/v1/completions")
    @describe(
        "Continue a text.",
        body=completions.CompletionRequest,
        answer=schemas.COMPLETION,
        content=BOTH,
        error=schemas.ERROR,
    )
    async def complete() -> Response:
        body = await read_model(completions.CompletionRequest)
        id_, created, wanted = _id("cmpl-"), int(time.time()), body.to_vocabulary()
        if not body.stream:
            return await whole(
                service, body.model, wanted, lambda answers: completions.completion(id_, body, created, answers)
            )
        makers = [completions.CompletionChunks(id_, body, created, index) for index in range(len(wanted))]
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return await streamed(service, body.model, wanted, makers, include_usage=usage)


def _add_responses(made: Blueprint, service: Service) -> None:
    @made.post("/v1/responses")
    @describe(
        "Answer, as the responses API does; stateless.",
        body=ResponsesRequest,
        answer=schemas.RESPONSE,
        content=BOTH,
        error=schemas.ERROR,
    )
    async def respond() -> Response:
        body = await read_model(ResponsesRequest)
        request = body.to_vocabulary()
        builder = ResponseEvents(_id("resp_"), body, int(time.time()))

        if body.stream:
            return await sse(
                _response_records(service, body.model, request, builder),
                lambda failure: _named(builder.failed(failure.message, failure.code or failure.kind)),
            )
        async with closing(_response_records(service, body.model, request, builder)) as records:
            async for _ in records:
                pass
        return json_answer(builder.result)


def _named(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + encode(event)


async def _response_records(
    service: Service, model: str, request: GenerateRequest, builder: ResponseEvents
) -> AsyncGenerator[bytes, None]:
    async with closing(generate(service, model)(request)) as events:
        begun = False
        async for event in events:
            if not begun:
                begun = True
                for first in builder.start():
                    yield _named(first)
            for item in builder.events(event):
                yield _named(item)


def _add_embeddings(made: Blueprint, service: Service) -> None:
    @made.post("/v1/embeddings")
    @describe("Embed texts.", body=EmbeddingsRequest, answer=schemas.EMBEDDINGS, error=schemas.ERROR)
    async def embed() -> Response:
        body = await read_model(EmbeddingsRequest)
        name = ModelName.parse(body.model)
        result = await embedded(service.embed(name, body.to_vocabulary(), caller=caller(body.model)))
        return json_answer(embeddings(body.model, result, body.encoding_format))


def _add_models(made: Blueprint, service: Service) -> None:
    @made.get("/v1/models")
    @describe("List the models.", answer=schemas.MODELS, error=schemas.ERROR)
    async def models() -> Response:
        return json_answer({"object": "list", "data": [_model(model) for model in await service.list()]})

    @made.get("/v1/models/<path:name>")
    @describe("One model.", answer=schemas.MODEL, parameters={"name": schemas.NAME}, error=schemas.ERROR)
    async def model(name: str) -> Response:
        return json_answer(_model(await service.show(ModelName.parse(name))))


def _model(model: InstalledModel) -> dict[str, Any]:
    return {
        "id": str(model.name),
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": model.name.org or "library",
    }
