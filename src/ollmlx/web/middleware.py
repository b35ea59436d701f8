"""The gate every request passes before the routes: id, host, origin, key, size, drain; and the line when it is over.

An ASGI middleware, so that it acts before a byte of the body is read and after the last byte of the answer is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from ollmlx.errors import OllmlxError
from ollmlx.web.access_log import QUIET_PATHS
from ollmlx.web.context import CLIENT_GONE, CURRENT, Exchange
from ollmlx.web.cors import answer_headers, preflight_headers
from ollmlx.web.kit.encoding import too_large
from ollmlx.web.kit.errors import JSON, Failure, failure, failure_headers
from ollmlx.web.request_id import HEADER, request_id
from ollmlx.web.security import OPEN_PATHS, keys_sent
from ollmlx.web.server.drain import Drain
from ollmlx.web.state import WebState

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STARTED_AT_ONCE = 4
"""Requests that may begin in the same round of the event loop. A round serves every task that is ready: were a
thousand requests begun in one, nothing else would be served for a second."""
HEALTH_PATHS = QUIET_PATHS | {"/"}
"""Health endpoints; never queued."""
LINGER = 1.0
"""Seconds to go on reading a refused body: a client that is still writing would miss the answer otherwise."""


class Gate:
    """Wraps the web application."""

    def __init__(self, app: ASGI, site: WebState) -> None:
        self._app = app
        self._site = site
        self._turns = asyncio.Semaphore(STARTED_AT_ONCE)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _Headers(scope["headers"])
        exchange = Exchange(request_id(headers.first(HEADER)), scope["method"], scope["path"], client=_peer(scope))
        exchange.priority = (headers.first("x-priority") or "normal").strip().lower()
        exchange.upload = self._site.is_upload(exchange.path)
        scope["ollmlx.exchange"] = exchange
        token = CURRENT.set(exchange)
        self._site.drain.enter(exchange)
        try:
            await self._answer(scope, headers, exchange, Wire(exchange, receive, send, self._site.drain))
        finally:
            self._site.drain.leave(exchange)
            self._site.over(exchange)
            CURRENT.reset(token)

    async def _answer(self, scope: Message, headers: _Headers, exchange: Exchange, wire: Wire) -> None:
        try:
            if exchange.path not in HEALTH_PATHS:
                async with self._turns:
                    await asyncio.sleep(0)
            try:
                self._admit(headers, exchange)
            except OllmlxError as error:
                await self._refuse(wire, exchange, error)
                return
            if exchange.method == "OPTIONS" and headers.first("access-control-request-method"):
                await wire.whole(204, b"", _preflight(headers, exchange))
                return
            await self._app(scope, wire.receive, wire.send)
            if not exchange.status and self._site.drain.ended:
                await self._refuse(wire, exchange, self._site.drain.refusal())
        finally:
            await exchange.close()
            if not wire.complete:
                exchange.error = exchange.error or "cancelled"
                exchange.status = CLIENT_GONE

    def _admit(self, headers: _Headers, exchange: Exchange) -> None:
        """Raise OllmlxError for a request that must not reach a route."""
        policy, hosts = self._site.policy, headers.all("host")
        policy.check_host(hosts)
        origin = headers.first("origin")
        policy.check_origin(origin, hosts[0])
        exchange.origin = origin
        preflight = exchange.method == "OPTIONS" and origin is not None
        if exchange.path not in OPEN_PATHS and not preflight:  # a browser sends no key with a preflight
            exchange.client = policy.check_key(keys_sent(headers.raw), exchange.client) or exchange.client
        if self._site.drain.draining and exchange.method not in SAFE_METHODS:
            raise self._site.drain.refusal()
        length = headers.first("content-length") or ""
        if length.isdigit() and int(length) > self._site.settings.server.max_body and not exchange.upload:
            raise too_large()

    async def _refuse(self, wire: Wire, exchange: Exchange, error: OllmlxError) -> None:
        found: Failure = failure(error)
        body = orjson.dumps(self._site.shapes.of(exchange.path)(found))
        await wire.whole(found.status, body, [(b"content-type", JSON.encode()), *failure_headers(found)])


class Wire:
    """The two callables of one ASGI request, watched."""

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, drain: Drain) -> None:
        self._exchange = exchange
        self._drain = drain
        self._receive = receive
        self._send = send
        self.complete = False
        exchange.room.set()

    async def receive(self) -> Message:
        """The next piece of the body, once there is room for it."""
        await self._exchange.room.wait()
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._exchange.received.set()
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on; the daemon's own headers join the first, and the last waits for a body still coming."""
        exchange = self._exchange
        if message["type"] == "http.response.body":
            exchange.sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                await self._end(message)
                return
        elif message["type"] == "http.response.start":
            exchange.status = message["status"]
            extra = exchange.headers()
            if exchange.origin is not None and exchange.status != 403:
                extra += answer_headers(exchange.origin)
            # A connection that is about to go must not be taken for the next request.
            if not exchange.received.is_set() or self._drain.draining:
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)

    async def whole(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer without any route."""
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _end(self, message: Message) -> None:
        """Send the last message. What the client still writes is read meanwhile, and thrown away: it would miss the
        answer otherwise, and the HTTP server ends no exchange for as long as pieces of its body wait to be read."""
        received = self._exchange.received
        if received.is_set():
            self.complete = True
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        self._exchange.room.clear()  # nobody else reads on
        reading = asyncio.create_task(self._discard())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await received.wait()
            self.complete = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _discard(self) -> None:
        message: Message = {}
        while message.get("type") != "http.disconnect":
            message = await self._receive()
            if not message.get("more_body", False):
                self._exchange.received.set()


class _Headers:
    """The request's headers, by lower-case name."""

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = [(name.lower(), value) for name, value in raw]

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1").strip() for key, value in self.raw if key == name.encode()]

    def first(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


def _peer(scope: Message) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


def _preflight(headers: _Headers, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    if exchange.origin is None:
        return []
    asked = headers.first("access-control-request-headers") or ""
    private = headers.first("access-control-request-private-network") == "true"
    own = {name for name, _ in answer_headers(exchange.origin)}
    return [item for item in preflight_headers(exchange.origin, asked, private) if item[0] not in own]
