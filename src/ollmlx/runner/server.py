"""Runner Protocol v1 over HTTP: the routes, the token, the errors with their statuses, and the server's life.

The server answers before the model is loaded, closes in bounded time, and returns the exit status.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from ollmlx.errors import STATUS, InvalidRequest, NotFound, OllmlxError, TooLarge, Unauthorized, Unsupported
from ollmlx.plugin.contracts import can_rerank, can_speak, can_transcribe
from ollmlx.protocol import TRACEPARENT, Detokenized, ExitCode, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.runner.host import EngineHost, EventStream, problem_of
from ollmlx.runner.startup import CannotStart, first_fault, request_id
from ollmlx.types import (
    EmbedRequest,
    Event,
    Frozen,
    GenerateRequest,
    RerankRequest,
    SpeechRequest,
    TranscribeRequest,
)

CLOSE_SECONDS = 30.0
"""The process exits when closing takes longer than this. The daemon kills it earlier."""
MAX_BODY_BYTES = 1024**3
LOGGED_BYTES = 3 * 1024
"""The last bytes of an answer that are logged, when the settings ask for prompts and answers."""
RUNNER_STATUS = STATUS | {"upstream": 502, "out_of_memory": 507}
"""The HTTP status of each kind of error. The daemon reads the kind in the body; the status is for proxies and logs."""

Body = TypeVar("Body", bound=Frozen)

log = logging.getLogger("ollmlx.runner")


def serve(config: RunnerConfig, engine_spec: str, listener: socket.socket, notes: tuple[str, ...] = ()) -> int:
    """Serve until asked to stop, and return the exit status. The cause of a failed load goes to standard error.

    notes: what to tell of this process besides the engine's own notes.
    """
    try:
        asyncio.run(_serve(EngineHost(config, engine_spec, notes), listener))
    except CannotStart as failure:
        os.write(2, f"{failure}\n".encode("utf-8", "replace"))
        return failure.code
    return ExitCode.ASKED


async def _serve(host: EngineHost, listener: socket.socket) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, host.stop)
    runner = web.AppRunner(
        application(host),
        handle_signals=False,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=3600.0,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    loading = asyncio.create_task(host.load())
    stopping = asyncio.create_task(host.stopped.wait())
    await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
        await stopping
    exit_after(CLOSE_SECONDS)
    await runner.cleanup()
    if loading.done():
        await host.close()


def exit_after(seconds: float) -> None:
    """Exit the process after `seconds`, whatever it does then."""

    def end() -> None:
        os.write(2, b"closing took too long\n")
        os._exit(ExitCode.INTERNAL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def application(host: EngineHost) -> web.Application:
    """Return the application. Every request needs `Authorization: Bearer TOKEN`; every failure is sent as a Problem."""
    routes = Routes(host)
    app = web.Application(middlewares=[_errors_and_token(host.config.token)], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.get("/v1/status", routes.status),
            web.post("/v1/generate", routes.generate),
            web.post("/v1/embed", routes.embed),
            web.post("/v1/rerank", routes.rerank),
            web.post("/v1/transcribe", routes.transcribe),
            web.post("/v1/speak", routes.speak),
            web.post("/v1/tokenize", routes.tokenize),
            web.post("/v1/detokenize", routes.detokenize),
            web.post("/v1/trim", routes.trim),
            web.post("/v1/shutdown", routes.shutdown),
        ]
    )
    return app


class Routes:
    """The handlers, one method a route."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def status(self, request: web.Request) -> web.Response:
        return _json(self._host.status())

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, GenerateRequest, "generate")
        return await self._stream(request, self._host.ready_engine().generate(body), "generate")

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, TranscribeRequest, "transcribe")
        engine = self._host.ready_engine()
        if not can_transcribe(engine):
            raise Unsupported("this engine does not write down what is spoken")
        return await self._stream(request, engine.transcribe(body), "transcribe")

    async def speak(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, SpeechRequest, "speak")
        engine = self._host.ready_engine()
        if not can_speak(engine):
            raise Unsupported("this engine does not speak")
        return await self._stream(request, engine.speak(body), "speak")

    async def _stream(self, request: web.Request, events: AsyncIterator[Event], route: str) -> web.StreamResponse:
        """Send events as lines of JSON, until the last one or until the daemon leaves."""
        stream = EventStream(events)
        began = time.monotonic()
        size, end = 0, b""
        trace = TRACEPARENT.get()
        log.debug("%s: begun%s", route, f", trace {trace}" if trace else "")
        with self._host.streaming(stream):
            try:
                data = await stream.take()
                if stream.failure is not None:
                    raise stream.failure
                response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
                await response.prepare(request)
                while data:
                    await response.write(data)
                    size += len(data)
                    if self._host.config.debug_prompts:
                        end = (end + data)[-LOGGED_BYTES:]
                    data = await stream.take()
                await response.write_eof()
            except ConnectionError:
                log.info("%s: the client closed the connection after %d bytes", route, size)
                raise
            finally:
                if self._host.config.debug_prompts:
                    log.debug("%s: answered %s", route, end.decode("utf-8", "replace"))
                # Logged before the stream is closed: a client that leaves at `done` may cancel the closing.
                log.debug("%s: %d bytes in %.3f s", route, size, time.monotonic() - began)
                await stream.close()
        return response

    async def embed(self, request: web.Request) -> web.Response:
        body = await self._body(request, EmbedRequest, "embed")
        began = time.monotonic()
        result = await self._host.ready_engine().embed(body)
        log.debug("embed: %d vectors in %.3f s", len(result.embeddings), time.monotonic() - began)
        return _json(result)

    async def rerank(self, request: web.Request) -> web.Response:
        body = await self._body(request, RerankRequest, "rerank")
        engine = self._host.ready_engine()
        if not can_rerank(engine):
            raise Unsupported("this engine does not score documents")
        result = await engine.rerank(body)
        log.debug("rerank: %d scores, %d tokens", len(result.scores), result.prompt_tokens)
        return _json(result)

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request, TokenizeRequest, "tokenize")
        result = await self._host.ready_engine().tokenize(body)
        log.debug("tokenize: %d tokens", len(result.tokens))
        return _json(result)

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await self._body(request, Tokens, "detokenize")
        return _json(Detokenized(text=await self._host.ready_engine().detokenize(body)))

    async def trim(self, request: web.Request) -> web.Response:
        await self._host.ready_engine().trim()
        return _json(self._host.status())

    async def shutdown(self, request: web.Request) -> web.Response:
        self._host.stop()
        return _json(self._host.status())

    async def _body(self, request: web.Request, model: type[Body], route: str) -> Body:
        """Read the request's JSON, whatever its content type. Raises InvalidRequest without repeating the input."""
        try:
            body = model.model_validate_json(await request.read())
        except ValidationError as error:
            raise InvalidRequest(f"invalid {model.__name__}: {first_fault(error)}") from None
        if request_id.get() == "-" and (named := getattr(body, "request_id", "")):
            request_id.set(named)
        if self._host.config.debug_prompts:
            log.debug("%s %s", route, body.model_dump_json(exclude_defaults=True))
        return body


def _errors_and_token(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id.set(request.headers.get("X-Request-ID", "-"))
        TRACEPARENT.set(request.headers.get("traceparent", ""))
        try:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, expected):
                raise Unauthorized("wrong or missing runner token")
            return await handler(request)
        except web.HTTPException as error:
            return _problem(_from_aiohttp(request, error))
        except ConnectionError:
            raise  # the client has closed the connection
        except OllmlxError as error:
            return _problem(error)
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return _problem(error)

    return middleware


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> OllmlxError:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"Runner Protocol v1 has no {request.path}")
    return InvalidRequest(f"{request.method} {request.path}: {error.reason}")


def _problem(error: BaseException) -> web.Response:
    problem = problem_of(error)
    return _json(problem, RUNNER_STATUS.get(problem.kind, 500))


def _json(answer: Frozen, status: int = 200) -> web.Response:
    data = answer.__pydantic_serializer__.to_json(answer)
    return web.Response(status=status, body=data, content_type="application/json")
