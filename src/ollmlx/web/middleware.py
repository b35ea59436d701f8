"""The ASGI middleware in front of the routes: request id, host, origin, API key, body size, drain, log line.

It acts before any of the body is read, and again after the last byte of the response was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from werkzeug.datastructures import Headers as RequestHeaders

from ollmlx.errors import OllmlxError
from ollmlx.protocol import TRACEPARENT
from ollmlx.web.context import CLIENT_GONE, CURRENT, REQUEST_ID_HEADER, USABLE_ID, RequestContext
from ollmlx.web.kit.body import too_large
from ollmlx.web.kit.errors import JSON, failure, failure_headers
from ollmlx.web.logs import QUIET_PATHS
from ollmlx.web.security import Headers, cors_headers, preflight_headers
from ollmlx.web.server.drain import Drain
from ollmlx.web.state import WebState

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
USABLE_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""Trace contexts of clients that are passed on."""
HEALTH_PATHS = QUIET_PATHS | {"/"}
"""Health endpoints; never queued."""
STARTED_AT_ONCE = 4
"""Requests that may start in the same round of the event loop. A round runs every task that is ready: if a thousand
requests started in one, nothing else would be served for a second."""
LINGER = 1.0
"""Seconds for which a refused body is still read: a client that is still sending would miss the response otherwise."""


class Middleware:
    """Wraps the web application."""

    def __init__(self, app: ASGI, state: WebState) -> None:
        self._app = app
        self._state = state
        self._start = asyncio.Semaphore(STARTED_AT_ONCE)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = RequestHeaders((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        peer = str(scope["client"][0]) if scope.get("client") else "local"
        sent = headers.get(REQUEST_ID_HEADER, "")
        request_id = sent if USABLE_ID.fullmatch(sent) else f"req-{secrets.token_hex(8)}"
        context = RequestContext(request_id, scope["method"], scope["path"], peer)
        context.body_wanted.set()
        context.priority = headers.get("x-priority", "normal").strip().lower()
        context.traceparent = headers.get("traceparent", "")
        context.upload = context.path.startswith(tuple(self._state.uploads))
        token = CURRENT.set(context)
        self._state.drain.enter(context)
        try:
            with self._awake(context):
                await self._respond(scope, headers, context, ResponseWatcher(context, receive, send, self._state.drain))
        finally:
            self._state.drain.leave(context)
            self._state.finish(context)
            CURRENT.reset(token)

    def _begin(self, context: RequestContext) -> None:
        if USABLE_TRACE.fullmatch(context.traceparent):
            TRACEPARENT.set(context.traceparent)
        for beginner in self._state.beginners:
            beginner(context)

    def _awake(self, context: RequestContext) -> AbstractContextManager[None]:
        app = self._state.app
        if context.method in SAFE_METHODS or not app.settings.server.keep_awake:
            return contextlib.nullcontext()
        return app.awake.during()

    async def _respond(
        self, scope: Message, headers: RequestHeaders, context: RequestContext, watcher: ResponseWatcher
    ) -> None:
        try:
            if context.path not in HEALTH_PATHS:
                async with self._start:
                    await asyncio.sleep(0)
            try:
                self._check(headers, context)
            except OllmlxError as error:
                await self._refuse(watcher, context, error)
                return
            if context.method == "OPTIONS" and headers.get("access-control-request-method"):
                requested = headers.get("access-control-request-headers", "")
                private = headers.get("access-control-request-private-network") == "true"
                await watcher.send_whole(204, b"", preflight_headers(requested, private) if context.origin else [])
                return
            self._begin(context)
            await self._app(scope, watcher.receive, watcher.send)
            if not context.status and self._state.drain.ended:
                await self._refuse(watcher, context, self._state.drain.refusal())
        finally:
            await context.close()
            if not watcher.complete:
                context.error = context.error or "cancelled"
                context.status = CLIENT_GONE

    def _check(self, headers: RequestHeaders, context: RequestContext) -> None:
        """Raise OllmlxError for a request that must not reach a route."""
        policy, hosts = self._state.policy, headers.getlist("host")
        policy.check_host(hosts)
        origin = headers.get("origin")
        if origin is not None:
            policy.check_origin(origin, hosts[0])
            context.origin = origin
        preflight = context.method == "OPTIONS" and origin is not None
        if context.path not in self._state.public and not preflight:  # a browser sends no key with a preflight
            bearers, keys = headers.getlist("authorization"), headers.getlist("x-api-key")
            context.client = policy.check_key(bearers, keys, context.client)
            context.quotas = self._state.app.quotas
        if self._state.drain.draining and context.method not in SAFE_METHODS:
            raise self._state.drain.refusal()
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._state.app.settings.server.max_body and not context.upload:
            raise too_large()

    async def _refuse(self, watcher: ResponseWatcher, context: RequestContext, error: OllmlxError) -> None:
        found = failure(error)
        body = orjson.dumps(self._state.shape_of(context.path)(found))
        await watcher.send_whole(found.status, body, [(b"content-type", JSON.encode()), *failure_headers(found)])


@dataclass(eq=False)
class ResponseWatcher:
    """Stands between one ASGI request and the application: adds headers, and notes status and completion."""

    context: RequestContext
    server_receive: Receive
    server_send: Send
    drain: Drain
    complete: bool = False
    """The last message was passed to the server."""

    async def receive(self) -> Message:
        """Return the next piece of the body, once the route wants more of it."""
        await self.context.body_wanted.wait()
        message = await self.server_receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.context.body_received.set()
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on, the first with the daemon's own headers, the last after the rest of the body was read."""
        context = self.context
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send_last(message)
            return
        if message["type"] == "http.response.start":
            context.status = message["status"]
            extra = context.headers()
            if context.origin is not None and context.status != 403:
                extra += cors_headers(context.origin)
            # The client must not send its next request on a connection that is about to be closed.
            if not context.body_received.is_set() or self.drain.draining:
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self.server_send(message)

    async def send_whole(self, status: int, body: bytes, headers: Headers) -> None:
        """Send a response that no route made."""
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_last(self, message: Message) -> None:
        """Send the last message. What the client still sends is read and discarded for up to LINGER seconds first.

        The client would miss the response otherwise, and hypercorn ends no request while pieces of its body are unread.
        """
        received = self.context.body_received
        if received.is_set():
            self.complete = True
            await self.server_send(message)
            return
        await self.server_send({**message, "more_body": True})
        self.context.body_wanted.clear()  # from here on only `_discard_body` reads
        reading = asyncio.create_task(self._discard_body())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await received.wait()
            self.complete = True
            await self.server_send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _discard_body(self) -> None:
        message: Message = {}
        while message.get("type") != "http.disconnect":
            message = await self.server_receive()
            if not message.get("more_body", False):
                self.context.body_received.set()
