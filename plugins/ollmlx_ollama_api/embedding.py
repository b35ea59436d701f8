"""`/api/embed` and the older `/api/embeddings`."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from ollmlx.errors import NotFound
from ollmlx.types import EmbedRequest, EmbedResult
from ollmlx.web import caller, describe, embedded, json_answer, read_model
from ollmlx_ollama_api import schemas
from ollmlx_ollama_api.management_request import EmbedBody, EmbeddingsBody
from ollmlx_ollama_api.options import options
from ollmlx_ollama_api.wire import Named

if TYPE_CHECKING:
    from quart import Blueprint, Response

    from ollmlx import Service

T = TypeVar("T")


def add_routes(made: Blueprint, service: Service) -> None:
    """Add them to the family's Blueprint."""

    @made.post("/api/embed")
    @describe("Embed texts.", body=EmbedBody, answer=schemas.EMBEDDED, error=schemas.ERROR)
    async def embed() -> Response:
        body = await read_model(EmbedBody)
        if not body.asked:
            raise NotFound("model '' not found")
        request = EmbedRequest(
            inputs=body.inputs(),
            truncate=body.truncate,
            dimensions=body.length(),
            options=options(body.options),
        )
        result = await _embedded(service, body, request, body.keep_alive)
        return json_answer(
            {
                "model": body.asked,
                "embeddings": result.embeddings,
                "total_duration": result.total_ns,
                "load_duration": result.load_ns,
                "prompt_eval_count": result.prompt_tokens,
            }
        )

    @made.post("/api/embeddings")
    @describe(
        "Embed one text; the vector is not normalised.",
        body=EmbeddingsBody,
        answer=schemas.EMBEDDED_ONE,
        error=schemas.ERROR,
    )
    async def embeddings() -> Response:
        body = await read_model(EmbeddingsBody)
        body.model_name()
        inputs = (body.prompt,) if body.prompt else ()
        request = EmbedRequest(inputs=inputs, normalize=False, options=options(body.options))
        result = await _embedded(service, body, request, body.keep_alive)
        return json_answer({"embedding": result.embeddings[0] if result.embeddings else []})


async def _embedded(service: Service, body: Named, request: EmbedRequest, keep_alive: float | None) -> EmbedResult:
    """The vectors; without texts the model is only loaded."""
    name, who, started = body.model_name(), caller(body.asked), time.monotonic_ns()
    if not request.inputs:
        load_ns = await _found(body, service.load(name, caller=who, keep_alive=keep_alive, options=request.options))
        return EmbedResult(embeddings=(), prompt_tokens=0, load_ns=load_ns, total_ns=time.monotonic_ns() - started)
    return await _found(body, embedded(service.embed(name, request, caller=who, keep_alive=keep_alive)))


async def _found(body: Named, work: Awaitable[T]) -> T:
    """The work's result; a missing model is told with these routes' own sentence."""
    try:
        return await work
    except NotFound as error:
        raise NotFound(
            f'model "{body.asked}" not found, try pulling it first', code=error.code, hint=error.hint
        ) from error
