"""Runner Protocol v1 over HTTP: the routes, the token, the errors. What they do is the harness's business."""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, NotFound, OllmlxError, TooLarge, Unauthorized
from ollmlx.protocol import Detokenized, TokenizeRequest, Tokens
from ollmlx.runner import problems
from ollmlx.runner.logs import request_id
from ollmlx.runner.pump import Pump
from ollmlx.runner.startup import sentence
from ollmlx.types import EmbedRequest, Frozen, GenerateRequest

if TYPE_CHECKING:
    from ollmlx.runner.harness import Harness

MAX_BODY_BYTES = 1024**3
MOST_SAID = 3 * 1024
"""Bytes of an answer that are logged, its end, when the settings ask for prompts and answers."""
Body = TypeVar("Body", bound=Frozen)

log = logging.getLogger("ollmlx.runner")


def build(harness: Harness, token: str) -> web.Application:
    """The application. Every route wants `Authorization: Bearer TOKEN`; every failure is answered with a Problem."""
    routes = Routes(harness)
    app = web.Application(middlewares=[_guard(token)], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.get("/v1/status", routes.status),
            web.post("/v1/generate", routes.generate),
            web.post("/v1/embed", routes.embed),
            web.post("/v1/tokenize", routes.tokenize),
            web.post("/v1/detokenize", routes.detokenize),
            web.post("/v1/trim", routes.trim),
            web.post("/v1/shutdown", routes.shutdown),
        ]
    )
    return app


class Routes:
    """One method a route."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    async def status(self, request: web.Request) -> web.Response:
        return _json(self._harness.status())

    async def generate(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, GenerateRequest)
        engine = self._harness.ready_engine()
        telling = self._harness.config.debug_prompts
        if telling:
            log.debug("generate %s", asked.model_dump_json(exclude_defaults=True))
        pump = Pump(engine.generate(asked))
        began = time.monotonic()
        size, said = 0, b""
        log.debug("generate: begun")
        with self._harness.streaming(pump):
            try:
                data = await pump.take()
                if pump.failure is not None:
                    raise pump.failure
                response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
                await response.prepare(request)
                while data:
                    await response.write(data)
                    size += len(data)
                    if telling:
                        said = (said + data)[-MOST_SAID:]
                    data = await pump.take()
                await response.write_eof()
            except ConnectionError:
                log.info("generate: the reader left after %d bytes", size)
                raise
            finally:
                if telling:
                    log.debug("generate: answered %s", said.decode("utf-8", "replace"))
                # the line first: who reads leaves at `done`, and may interrupt the closing
                log.debug("generate: %d bytes in %.3f s", size, time.monotonic() - began)
                await pump.close()
        return response

    async def embed(self, request: web.Request) -> web.Response:
        asked = await _body(request, EmbedRequest)
        if self._harness.config.debug_prompts:
            log.debug("embed %s", asked.model_dump_json(exclude_defaults=True))
        began = time.monotonic()
        result = await self._harness.ready_engine().embed(asked)
        log.debug("embed: %d vectors in %.3f s", len(result.embeddings), time.monotonic() - began)
        return _json(result)

    async def tokenize(self, request: web.Request) -> web.Response:
        asked = await _body(request, TokenizeRequest)
        if self._harness.config.debug_prompts:
            log.debug("tokenize %s", asked.model_dump_json(exclude_defaults=True))
        result = await self._harness.ready_engine().tokenize(asked)
        log.debug("tokenize: %d tokens", len(result.tokens))
        return _json(result)

    async def detokenize(self, request: web.Request) -> web.Response:
        asked = await _body(request, Tokens)
        return _json(Detokenized(text=await self._harness.ready_engine().detokenize(asked)))

    async def trim(self, request: web.Request) -> web.Response:
        await self._harness.ready_engine().trim()
        return _json(self._harness.status())

    async def shutdown(self, request: web.Request) -> web.Response:
        self._harness.stop()
        return _json(self._harness.status())


def _guard(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id.set(request.headers.get("X-Request-ID", "-"))
        try:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, expected):
                raise Unauthorized("wrong or missing runner token")
            return await handler(request)
        except web.HTTPException as error:
            return problems.answer(problems.problem_of(_of_http(request, error)))
        except ConnectionError:
            raise  # nobody is left to answer
        except OllmlxError as error:
            return problems.answer(problems.problem_of(error))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return problems.answer(problems.problem_of(error))

    return guard


def _of_http(request: web.Request, error: web.HTTPException) -> OllmlxError:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"Runner Protocol v1 has no {request.path}")
    return InvalidRequest(f"{request.method} {request.path}: {error.reason}")


async def _body(request: web.Request, model: type[Body]) -> Body:
    """The request's JSON. The content type is not looked at. Raises InvalidRequest without repeating the input."""
    try:
        asked = model.model_validate_json(await request.read())
    except ValidationError as error:
        raise InvalidRequest(f"invalid {model.__name__}: {sentence(error)}") from None
    if request_id.get() == "-" and isinstance(asked, GenerateRequest | EmbedRequest) and asked.request_id:
        request_id.set(asked.request_id)
    return asked


def _json(answer: Frozen) -> web.Response:
    return web.Response(body=answer.__pydantic_serializer__.to_json(answer), content_type="application/json")
