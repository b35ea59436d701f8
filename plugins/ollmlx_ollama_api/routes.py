"""The family's Blueprint, and the routes that need a runner: generate, chat, embed, embeddings."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TYPE_CHECKING, TypeVar

from quart import Blueprint

from ollmlx import ModelName, closing
from ollmlx.errors import NotFound
from ollmlx.types import Answer, EmbedRequest, EmbedResult, Event
from ollmlx.web import caller, embedded, json_answer, ndjson, permit, read_model, tracked
from ollmlx_ollama_api import management, schemas
from ollmlx_ollama_api.bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody, RerankBody, parse_name
from ollmlx_ollama_api.records import RecordEncoder
from ollmlx_ollama_api.schemas import described

if TYPE_CHECKING:
    from quart import Response

    from ollmlx import Service

Result = TypeVar("Result")


def blueprint(service: Service) -> Blueprint:
    made = Blueprint("ollama", __name__)
    management.add_routes(made, service)
    _add_generation(made, service)
    _add_embedding(made, service)
    return made


def _add_generation(made: Blueprint, service: Service) -> None:
    @made.post("/api/generate")
    @described("Continue a prompt.", body=GenerateBody, answer=schemas.GENERATED, content=management.BOTH)
    async def generate() -> Response:
        body = await read_model(GenerateBody)
        name = body.generated_name()
        return await _answer(service, name, body, RecordEncoder(body.model, chat=False, context=not body.raw))

    @made.post("/api/chat")
    @described("Chat.", body=ChatBody, answer=schemas.CHATTED, content=management.BOTH)
    async def chat() -> Response:
        body = await read_model(ChatBody)
        return await _answer(service, parse_name(body.model), body, RecordEncoder(body.model, chat=True))


async def _answer(service: Service, name: ModelName, body: GenerateBody | ChatBody, records: RecordEncoder) -> Response:
    if body.only_loads:
        return await _load_or_unload(service, name, body, records)
    request = body.to_vocabulary()
    if body.debug_render_only:
        text = await service.render(name, request, caller=caller(body.model))
        return json_answer(records.rendered(text, sum(len(message.media) for message in request.messages)))
    events = tracked(service.generate(name, request, caller=caller(body.model), keep_alive=body.keep_alive))
    if body.stream:
        return await ndjson(_lines(events, records), alive=records.alive)
    async with closing(events):
        return json_answer(records.whole(await Answer.gather(events)))


async def _lines(events: AsyncIterator[Event], records: RecordEncoder) -> AsyncGenerator[bytes, None]:
    async with closing(events):
        async for event in events:
            line = records.line(event)
            if line is not None:
                yield line


async def _load_or_unload(
    service: Service, name: ModelName, body: GenerateBody | ChatBody, records: RecordEncoder
) -> Response:
    """Load or unload the model. The answer is one record, never a stream."""
    options = body.shared()["options"]  # an error in any field is reported now, not with the first prompt
    if body.unloads:
        permit(body.model, "stop")
        await service.unload(name)
        return json_answer(records.bare("unload"))
    if isinstance(body, GenerateBody):
        body.check_raw()
    await service.load(name, caller=caller(body.model), keep_alive=body.keep_alive, options=options)
    return json_answer(records.bare("load"))


def _add_embedding(made: Blueprint, service: Service) -> None:
    @made.post("/api/embed")
    @described("Embed texts.", body=EmbedBody, answer=schemas.EMBEDDED)
    async def embed() -> Response:
        body = await read_model(EmbedBody)
        if not body.model:
            raise NotFound("model '' not found")
        result = await _embedded(service, body, body.to_vocabulary())
        return json_answer(
            {
                "model": body.model,
                "embeddings": result.embeddings,
                "total_duration": result.total_ns,
                "load_duration": result.load_ns,
                "prompt_eval_count": result.prompt_tokens,
            }
        )

    @made.post("/api/rerank")
    @described("Score documents by how well they answer a query.", body=RerankBody, answer=schemas.RERANKED)
    async def rerank() -> Response:
        body = await read_model(RerankBody)
        name, request = parse_name(body.model), body.to_vocabulary()
        work = service.rerank(name, request, caller=caller(body.model), keep_alive=body.keep_alive)
        result = await _or_not_found(body.model, embedded(work))
        return json_answer(
            {
                "model": body.model,
                "results": result.ranked(request, body.top_n, with_documents=body.return_documents),
                "total_duration": result.total_ns,
                "load_duration": result.load_ns,
                "prompt_eval_count": result.prompt_tokens,
            }
        )

    @made.post("/api/embeddings")
    @described("Embed one text; the vector is not normalised.", body=EmbeddingsBody, answer=schemas.EMBEDDED_ONE)
    async def embeddings() -> Response:
        body = await read_model(EmbeddingsBody)
        parse_name(body.model)
        result = await _embedded(service, body, body.to_vocabulary())
        return json_answer({"embedding": result.embeddings[0] if result.embeddings else []})


async def _embedded(service: Service, body: EmbedBody | EmbeddingsBody, request: EmbedRequest) -> EmbedResult:
    """Return the vectors. Without texts the model is only loaded."""
    name, client, started = parse_name(body.model), caller(body.model), time.monotonic_ns()
    if request.inputs:
        vectors = embedded(service.embed(name, request, caller=client, keep_alive=body.keep_alive))
        return await _or_not_found(body.model, vectors)
    loading = service.load(name, caller=client, keep_alive=body.keep_alive, options=request.options)
    load_ns = await _or_not_found(body.model, loading)
    return EmbedResult(embeddings=(), prompt_tokens=0, load_ns=load_ns, total_ns=time.monotonic_ns() - started)


async def _or_not_found(name: str, work: Awaitable[Result]) -> Result:
    """Return the result of the work. A missing model is reported with the sentence of the embedding routes."""
    try:
        return await work
    except NotFound as error:
        raise NotFound(f'model "{name}" not found, try pulling it first', code=error.code, hint=error.hint) from error
