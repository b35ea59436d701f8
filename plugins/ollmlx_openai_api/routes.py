"""The family's Blueprint: the routes under `/v1` that OpenAI's clients call."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from ollmlx import ModelName, closing
from ollmlx.types import GenerateRequest, InstalledModel
from ollmlx.web import Failure, caller, declare_errors, embedded, json_answer, permit, permits, read_model, sse
from ollmlx_openai_api import schemas
from ollmlx_openai_api.answering import chunk_records, encode, error_event, generate, requests, shape, told, whole
from ollmlx_openai_api.audio import add_audio
from ollmlx_openai_api.chat_request import ChatRequest, CompletionFields
from ollmlx_openai_api.chat_response import ChatChunks, Frame, completion
from ollmlx_openai_api.completions import (
    CompletionChunks,
    CompletionRequest,
    EmbeddingsRequest,
    RerankFields,
    embeddings,
    reranked,
    text_completion,
)
from ollmlx_openai_api.responses_request import ResponsesRequest
from ollmlx_openai_api.responses_response import ResponseEvents
from ollmlx_openai_api.schemas import described

if TYPE_CHECKING:
    from ollmlx import Service

BOTH = ("application/json", "text/event-stream")


def blueprint(service: Service) -> Blueprint:
    made = Blueprint("openai", __name__)
    declare_errors(made, shape, "/v1/")
    _add_completions(made, service)
    _add_responses(made, service)
    _add_embeddings(made, service)
    _add_rerank(made, service)
    add_audio(made, service)
    _add_models(made, service)
    return made


def _id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def _frame(body: CompletionFields, prefix: str, kind: str) -> Frame:
    frame = {"id": _id(prefix), "object": kind, "created": int(time.time()), "model": body.model}
    null_until_the_end = {"usage": None} if body.stream and body.stream_options.include_usage else {}
    return {**frame, "system_fingerprint": "fp_ollmlx", **null_until_the_end}


def _add_completions(made: Blueprint, service: Service) -> None:
    @made.post("/v1/chat/completions")
    @described("Chat.", body=ChatRequest, answer=schemas.CHAT, content=BOTH)
    async def chat() -> Response:
        body = await read_model(ChatRequest)
        wanted = requests(await _thinkable(service, body.model, body.to_vocabulary()), body.n)
        frame = _frame(body, "chatcmpl-", "chat.completion.chunk" if body.stream else "chat.completion")
        if not body.stream:
            return await whole(service, body.model, wanted, lambda answers: completion(frame, answers))
        makers = [ChatChunks(frame, index) for index in range(body.n)]
        return await sse(chunk_records(service, body, wanted, frame, makers), error_event)

    @made.post("/v1/completions")
    @described("Continue a text.", body=CompletionRequest, answer=schemas.COMPLETION, content=BOTH)
    async def complete() -> Response:
        body = await read_model(CompletionRequest)
        wanted = body.to_vocabulary()
        frame = _frame(body, "cmpl-", "text_completion")
        if not body.stream:
            return await whole(service, body.model, wanted, lambda answers: text_completion(frame, body.n, answers))
        makers = [CompletionChunks(frame, index) for index in range(len(wanted))]
        return await sse(chunk_records(service, body, wanted, frame, makers), error_event)


def _add_responses(made: Blueprint, service: Service) -> None:
    @made.post("/v1/responses")
    @described(
        "Answer, as the responses API does; stateless.", body=ResponsesRequest, answer=schemas.RESPONSE, content=BOTH
    )
    async def respond() -> Response:
        body = await read_model(ResponsesRequest)
        await asyncio.to_thread(body.response_tools)  # grammars are compiled once, and kept
        builder = ResponseEvents(_id("resp_"), body, int(time.time()))
        records = _response_records(service, body, builder)
        if body.stream:
            return await sse(records, lambda failure: _failed(builder, failure), lambda: _alive(builder))
        async with closing(records):
            async for _ in records:
                pass
        return json_answer(builder.result)


def _named(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + encode(event)


def _failed(builder: ResponseEvents, failure: Failure) -> bytes:
    message, code = told(failure)
    return _named(builder.failed(message, code or failure.kind))


def _alive(builder: ResponseEvents) -> bytes:
    """Encode an event without news. Codex does not count comments when it waits for a sign of life."""
    return b"".join(map(_named, builder.alive()))


async def _thinkable(service: Service, name: str, request: GenerateRequest) -> GenerateRequest:
    """Return the request without an effort that the model cannot make: clients state one for every model."""
    if not request.think or "thinking" in (await service.show(ModelName.parse(name))).capabilities:
        return request
    return request.model_copy(update={"think": None})


async def _response_records(
    service: Service, body: ResponsesRequest, builder: ResponseEvents
) -> AsyncGenerator[bytes, None]:
    request = await _thinkable(service, body.model, body.to_vocabulary())
    async with closing(generate(service, body.model, request)) as events:
        async for event in events:
            for first in builder.start():
                yield _named(first)
            for item in builder.events(event):
                yield _named(item)


def _add_embeddings(made: Blueprint, service: Service) -> None:
    @made.post("/v1/embeddings")
    @described("Embed texts.", body=EmbeddingsRequest, answer=schemas.EMBEDDINGS)
    async def embed() -> Response:
        body = await read_model(EmbeddingsRequest)
        name = ModelName.parse(body.model)
        result = await embedded(service.embed(name, body.to_vocabulary(), caller=caller(body.model)))
        return json_answer(embeddings(body.model, result, body.encoding_format))


def _add_rerank(made: Blueprint, service: Service) -> None:
    @made.post("/v1/rerank")
    @described("Score documents by how well they answer a query.", body=RerankFields, answer=schemas.RERANKED)
    async def rerank() -> Response:
        body = await read_model(RerankFields)
        request = body.to_vocabulary()
        scores = service.rerank(ModelName.parse(body.model), request, caller=caller(body.model))
        return json_answer(reranked(_id("rerank-"), body, request, await embedded(scores)))


def _add_models(made: Blueprint, service: Service) -> None:
    @made.get("/v1/models")
    @described("List the models.", answer=schemas.MODELS)
    async def models() -> Response:
        found = [model for model in await service.list() if permits(model.name)]
        lengths = await asyncio.gather(*map(service.context_length, found))
        return json_answer({"object": "list", "data": [*map(_model, found, lengths)]})

    @made.get("/v1/models/<path:name>")
    @described("One model.", answer=schemas.MODEL, parameters={"name": schemas.NAME})
    async def model(name: str) -> Response:
        asked = ModelName.parse(name)
        permit(name)
        found = await service.show(asked)
        return json_answer(_model(found, await service.context_length(found)))


def _model(model: InstalledModel, context_length: int | None) -> dict[str, Any]:
    return {
        "id": str(model.name),
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": model.name.org or "library",
        "capabilities": list(model.capabilities),
        **({} if context_length is None else dict.fromkeys(_CONTEXT_LENGTHS, context_length)),
    }


_CONTEXT_LENGTHS = ("context_length", "context_window", "max_model_len")
"""OpenAI has no field for the context length; these are OpenRouter's, Groq's and vLLM's, which clients read."""
