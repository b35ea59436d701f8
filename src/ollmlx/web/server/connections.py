"""HTTP connections: hypercorn's HTTP/1.1 protocol on `asyncio.start_server`.

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
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr, wrap_app
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
READ_SIZE = 2**16
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


class Connection:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol: H11Protocol
        self._idle_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._stalled_since = math.inf

    async def serve(self, app: AppWrapper, config: Config, context: WorkerContext) -> None:
        """Answer requests until the client or the server closes the connection. Raises OSError when it is lost."""
        sock = self._writer.get_extra_info("socket")
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            state = ConnectionState({})
            async with TaskGroup(asyncio.get_running_loop()) as tasks:
                self._protocol = HTTP1Protocol(app, config, context, tasks, state, False, client, server, self._send)
                self._start_idle_timer()
                while not self._reader.at_eof():
                    try:
                        data = await self._reader.read(READ_SIZE)
                    except OSError:
                        break
                    await self._protocol.handle(RawData(data))
                await self._protocol.handle(Closed())
        finally:
            self._stop_idle_timer()
            self._writer.close()
            await self._writer.wait_closed()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if self._idle_timer is not None:
            self._writer.close()

    def abort(self) -> None:
        """Close the connection at once; what waits to be sent is lost."""
        self._writer.transport.abort()

    def stalled(self, now: float) -> float:
        """Return for how many seconds the client has read nothing of what waits to be sent; 0 when nothing waits."""
        unread = self._writer.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread or self._stalled_since > now:
            self._stalled_since = now
        self._unread = unread
        return now - self._stalled_since

    async def _send(self, event: Event) -> None:
        """Handle an event of the protocol: bytes to send, a connection to close, a request that begins or has ended."""
        if isinstance(event, RawData):
            try:
                self._writer.write(event.data)
                await self._writer.drain()
            except (ConnectionError, RuntimeError):
                await self._protocol.handle(Closed())
        elif isinstance(event, Closed):
            self._writer.close()
        elif isinstance(event, Updated):
            self._stop_idle_timer()
            if event.idle:
                self._start_idle_timer()

    def _start_idle_timer(self) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self._writer.close)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


class HTTPServer:
    """Serves an application on a listening socket until it is stopped."""

    def __init__(self, app: Quart, sock: socket.socket, *, write_timeout: float) -> None:
        self._app = app
        self._sock = sock
        self._write_timeout = write_timeout
        self._wrapped = wrap_app(cast(Any, app), 0, "asgi")
        self._config = _config()
        self._context = WorkerContext(None)
        self._server: asyncio.Server
        self._connections: dict[asyncio.Task[object], Connection] = {}
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
        await self._context.terminated.set()  # connections close after their current request
        for connection in self._connections.values():
            connection.close_if_idle()
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
        connection = Connection(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection
        try:
            await connection.serve(self._wrapped, self._config, self._context)
        except OSError as error:
            logger.debug("a connection was lost: %s", error)
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
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = HEADER_LIMIT
    config.include_server_header = False
    return config
