"""HTTP connections: hypercorn's, on `asyncio.start_server`.

hypercorn's own accept loop waits without limit for open connections on Python 3.12.1 and later, whatever its
`graceful_timeout` says. Here shutdown is bounded, and a connection whose client stops reading is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from http import HTTPStatus
from typing import Any, cast

import h11
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import H11SendableEvent
from hypercorn.utils import wrap_app
from quart import Quart

from ollmlx.web.server.sockets import BACKLOG

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 20
"""Seconds a connection may sit idle between requests, or take to send the headers of one."""
HEADER_LIMIT = 32 * 1024
CHECK_INTERVAL = 1.0
"""Seconds between two checks for clients that have stopped reading."""
ACCEPTED_AT_ONCE = 16
"""Connections accepted in one round of the event loop, so that a thousand new ones do not delay those already open."""
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class HTTP1Protocol(H11Protocol):
    """hypercorn's HTTP/1.1 protocol, with reason phrases and without HTTP/2.

    hypercorn answers `404 ` where this answers `404 Not Found`: some clients show nothing else for an error. A request
    to upgrade to HTTP/2 is answered in HTTP/1.1. The head of a response is sent together with the first piece of the
    body: each system call takes a tenth of the time of a short response.
    """

    _unsent = b""

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, (h11.Response, h11.InformationalResponse)):
            phrase = PHRASES.get(event.status_code, b"")
            event = type(event)(status_code=event.status_code, headers=event.headers, reason=phrase)
        try:
            self._unsent += self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
        if self._unsent and not isinstance(event, h11.Response):
            unsent, self._unsent = self._unsent, b""
            await self.send(RawData(unsent))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Override the method that switches to HTTP/2."""


class Connection(TCPServer):
    """One accepted connection: hypercorn's, with `HTTP1Protocol`. It ends as soon as its client has closed it."""

    _unread = 0
    _stalled_since = math.inf

    async def _read_data(self) -> None:
        old = self.protocol  # it would switch to HTTP/2
        self.protocol = HTTP1Protocol(  # type: ignore[assignment]
            old.app, old.config, old.context, old.task_group, old.state, old.ssl, old.client, old.server, old.send
        )
        await super()._read_data()
        await self.idle_task.stop()  # hypercorn waits for this task before it closes the connection

    def abort(self) -> None:
        """Close the connection at once; what waits to be sent is lost."""
        self.writer.transport.abort()

    def stalled(self, now: float) -> float:
        """Return for how many seconds the client has read nothing of what waits to be sent; 0 when nothing waits."""
        unread = self.writer.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread or self._stalled_since > now:
            self._stalled_since = now
        self._unread = unread
        return now - self._stalled_since


class HTTPServer:
    """Serves an application on a listening socket until it is stopped."""

    def __init__(self, app: Quart, sock: socket.socket, *, write_timeout: float) -> None:
        self._app = app
        self._sock = sock
        self._write_timeout = write_timeout
        self._wrapped = wrap_app(cast(Any, app), 0, "asgi")
        self._config = _config()
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[Any], Connection] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept connections."""
        await self._app.startup()
        # asyncio accepts up to `backlog` connections in one round of its loop; the kernel's queue is longer.
        self._server = await asyncio.start_server(self._serve, sock=self._sock, backlog=ACCEPTED_AT_ONCE)
        self._sock.listen(BACKLOG)
        self._watch = asyncio.create_task(self._drop_stalled(), name="stalled-writers")

    async def stop(self, timeout: float) -> None:
        """Stop listening, let connections end for `timeout` seconds, abort the rest, then cancel their tasks.

        May be repeated.
        """
        if self._watch is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        await asyncio.sleep(0)  # asyncio leaks a connection that it is still accepting when it closes the server
        self._server.close()
        await self._context.terminated.set()  # idle connections close now, the others after their current request
        await self._wait(timeout)
        for connection in self._connections.values():
            connection.abort()
        await self._wait(timeout)
        for task in self._connections:
            task.cancel()
        self._watch.cancel()
        self._watch = None
        await self._app.shutdown()

    async def _wait(self, timeout: float) -> None:
        if self._connections:
            await asyncio.wait(self._connections, timeout=timeout)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._context.terminated.is_set():  # it was accepted while the server stopped
            writer.close()
            return
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        connection = Connection(self._wrapped, loop, self._config, self._context, {}, reader, writer)
        self._connections[task] = connection
        try:
            await connection.run()
        except Exception:
            logger.exception("a connection ended with an error")
        finally:
            del self._connections[task]

    async def _drop_stalled(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            now = asyncio.get_running_loop().time()
            for connection in self._connections.values():
                if connection.stalled(now) > self._write_timeout:
                    logger.warning("dropped a client that read nothing for %.0f s", self._write_timeout)
                    connection.abort()


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("ollmlx.web.http")
    config.keep_alive_timeout = IDLE_TIMEOUT
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = HEADER_LIMIT
    config.include_server_header = False
    return config
