"""HTTP connections: hypercorn's HTTP/1.1 protocol on `asyncio.start_server`.

hypercorn's own accept loop waits without limit for open connections on Python 3.12.1 and later, whatever its
`graceful_timeout` says. Here shutdown is bounded, and a connection whose client stops reading is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import replace
from http.client import responses
from typing import Any, cast

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState, H11SendableEvent
from hypercorn.utils import wrap_app
from quart import Quart

from ollmlx.web.server.limits import ConnectionLimits
from ollmlx.web.server.sockets import BACKLOG

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 20
"""Seconds a connection may sit idle between requests, or take to send the headers of one."""
HEADER_LIMIT = 32 * 1024
ACCEPTED_AT_ONCE = 16
"""Connections accepted in one round of the event loop, so that a thousand new ones do not delay those already open."""
PIECE = 2**16
"""Bytes that are read or written at a time; a client has `write_timeout` for each piece."""
CONFIG = Config.from_mapping(
    errorlog=logging.getLogger("ollmlx.web.http"),
    keep_alive_max_requests=1_000_000,
    h11_max_incomplete_size=HEADER_LIMIT,
    include_server_header=False,
)


class Connection(H11Protocol):
    """One connection: hypercorn's HTTP/1.1 protocol over asyncio's streams. The only subclass of hypercorn's own parts.

    Statuses get their phrases: some clients show nothing else for an error. A request to upgrade to HTTP/2 is answered
    in HTTP/1.1. The head of a response is sent together with the first piece of the body, because each system call
    takes a tenth of the time of a short response.
    """

    def __init__(self, server: HTTPServer, tasks: TaskGroup, writer: asyncio.StreamWriter) -> None:
        client, own = (writer.get_extra_info(name)[:2] for name in ("peername", "sockname"))
        state = ConnectionState({})
        super().__init__(server.app, CONFIG, server.context, tasks, state, False, client, own, self._on_event)
        self.peer: str = client[0]
        self.abort = writer.transport.abort
        self.idle_timer: asyncio.TimerHandle | None = None
        self._server = server
        self.writer = writer
        self._unsent = b""
        writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until the system has taken everything

    def set_idle(self, idle: bool) -> None:
        """Close the connection after IDLE_TIMEOUT, unless a request begins; at once if its place is needed."""
        self._server.limits.set_silent(self, idle)
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        loop = asyncio.get_running_loop()
        self.idle_timer = loop.call_later(IDLE_TIMEOUT, self.writer.close) if idle else None

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._unsent += event.data
        elif isinstance(event, Closed):
            self.writer.close()
        elif isinstance(event, Updated):
            self.set_idle(event.idle)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, (h11.Response, h11.InformationalResponse)):
            event = replace(event, reason=responses.get(event.status_code, "").encode())
        await super()._send_h11_event(event)
        if self._unsent and not isinstance(event, h11.Response):
            unsent, self._unsent = self._unsent, b""
            await self._write(unsent)

    async def _write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), PIECE):
                self.writer.write(data[start : start + PIECE])
                if self.writer.transport.get_write_buffer_size():
                    async with asyncio.timeout(self._server.write_timeout):
                        await self.writer.drain()
        except TimeoutError:
            logger.warning("dropped a client that read nothing for %.0f s", self._server.write_timeout)
            self.abort()
        except (OSError, RuntimeError):
            await self.handle(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        """Override the method that switches to HTTP/2."""


class HTTPServer:
    """Serves an application on a listening socket until it is stopped."""

    def __init__(self, app: Quart, sock: socket.socket, write_timeout: float, limits: ConnectionLimits) -> None:
        self.app = wrap_app(cast(Any, app), 0, "asgi")
        self.context = WorkerContext(None)
        self.write_timeout = write_timeout
        self.limits = limits
        self._quart = app
        self._sock = sock
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begin to accept connections."""
        await self._quart.startup()
        # asyncio accepts up to `backlog` connections in one round of its loop; the kernel's queue is longer.
        self._server = await asyncio.start_server(self._serve, sock=self._sock, backlog=ACCEPTED_AT_ONCE)
        self._sock.listen(BACKLOG)

    async def stop(self, timeout: float) -> None:
        """Stop listening, let connections end for `timeout` seconds, then abort the rest. May be repeated."""
        if self.context.terminated.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        await asyncio.sleep(0)  # asyncio leaks a connection that it is still accepting when it closes the server
        self._server.close()
        await self.context.terminated.set()  # connections close after their current request
        for connection in self._connections:
            if connection.idle_timer is not None:
                connection.writer.close()
        await self._wait(timeout)
        for connection in self._connections:
            connection.abort()
        await self._wait(timeout)
        await self._quart.shutdown()

    async def _wait(self, timeout: float) -> None:
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=timeout)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until the client or the server closes it."""
        peername = writer.get_extra_info("peername")  # None when the connection is lost already
        if self.context.terminated.is_set() or not peername or not self.limits.admit(peername[0]):
            writer.transport.abort()
            return
        tasks = TaskGroup(asyncio.get_running_loop())
        connection = Connection(self, tasks, writer)
        self._connections[connection] = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            async with tasks:
                connection.set_idle(True)
                with suppress(OSError):  # the connection was lost
                    while data := await reader.read(PIECE):
                        await connection.handle(RawData(data))
                await connection.handle(Closed())
        except Exception:
            logger.exception("a connection ended with an error")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            connection.set_idle(False)
            del self._connections[connection]
            self.limits.leave(connection.peer)
