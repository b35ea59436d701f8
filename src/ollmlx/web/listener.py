"""Connections: hypercorn's protocol on sockets of our own.

hypercorn's own accept loop waits without limit for open connections on Python 3.12.1 and later, whatever its
`graceful_timeout` says, and shows nobody the transports. Here a connection whose client stopped reading can be dropped,
and all of them at the end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.utils import wrap_app

from ollmlx.web.entrance import Crowded, Entrance
from ollmlx.web.site import site_of
from ollmlx.web.sockets import BACKLOG

if TYPE_CHECKING:
    from quart import Quart

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 20
"""Seconds a connection may sit idle between requests, or take to send the headers of one."""

ACCEPTED_AT_ONCE = 32
"""Connections accepted in one round of the event loop."""
BEING_ACCEPTED = 4
"""Rounds of the event loop after which what was accepted is a connection of ours."""
HEADER_LIMIT = 32 * 1024
LOOK = 1.0
"""Seconds between two looks for clients that stopped reading."""


BARE_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) \r\n")


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection: how much waits to be read by the client, and since when nothing was."""

    transport: asyncio.WriteTransport
    waiting: int = 0
    since: float = math.inf

    def stalled(self, now: float) -> float:
        """Seconds for which the client has read nothing of what waits; 0 while it reads or nothing waits."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0 or waiting < self.waiting or self.since > now:
            self.since = now
        self.waiting = waiting
        return now - self.since


class Listener:
    """Serves an application on listening sockets until it is stopped."""

    def __init__(self, app: Quart, sockets: list[socket.socket], *, write_timeout: float, crowded: Crowded) -> None:
        self._app = app
        self._entrance = Entrance(site_of(app), crowded, IDLE_TIMEOUT)
        self._sockets = sockets
        self._write_timeout = write_timeout
        self._config = _config()
        self._context = WorkerContext(None)
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[Any], Connection] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept."""
        await self._app.startup()
        for sock in self._sockets:
            # asyncio accepts as many at once as its backlog is long; the system's backlog is another matter
            self._servers.append(await asyncio.start_server(self._connected, sock=sock, backlog=ACCEPTED_AT_ONCE))
            sock.listen(BACKLOG)
        self._watch = asyncio.create_task(self._look(), name="slow-clients")

    async def stop(self, patience: float) -> None:
        """Stop accepting, let connections end by themselves for `patience` seconds, then drop them. May be repeated."""
        if self._watch is None:
            return
        # Closing at once would lose, open, the connections that are accepted and not yet anybody's (CPython's own bug).
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
        for _ in range(BEING_ACCEPTED):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        await self._context.terminated.set()  # connections that are idle close now
        self._entrance.close()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=patience)
        for connection in self._connections.values():
            connection.transport.abort()
        if self._connections:
            _, left = await asyncio.wait(list(self._connections), timeout=patience)
            for task in left:
                task.cancel()
        self._watch.cancel()
        self._watch = None
        await self._app.shutdown()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = Connection(writer.transport)
        try:
            incoming: Any = await self._entrance.admit(reader, writer)
            if incoming is not None:
                served = wrap_app(self._app, 0, "asgi")
                await _Server(served, asyncio.get_running_loop(), self._config, self._context, {}, incoming, writer)
        finally:
            del self._connections[task]

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            now = asyncio.get_running_loop().time()
            for connection in list(self._connections.values()):
                if connection.stalled(now) > self._write_timeout:
                    logger.warning("a client that reads nothing is dropped after %.0f s", self._write_timeout)
                    connection.transport.abort()


class _Server(TCPServer):
    """Says `404 Not Found` where hypercorn says `404 `: some clients have no other words for an error."""

    async def protocol_send(self, event: Event) -> None:
        await super().protocol_send(RawData(phrased(event.data)) if isinstance(event, RawData) else event)


def phrased(head: bytes) -> bytes:
    """The head of an answer with the phrase that belongs to its status; anything else as it is."""
    bare = BARE_STATUS.match(head)
    if bare is None or not head.endswith(b"\r\n\r\n"):
        return head
    try:
        phrase = HTTPStatus(int(bare[1])).phrase
    except ValueError:
        return head
    return b"HTTP/1.1 %s %s\r\n" % (bare[1], phrase.encode()) + head[bare.end() :]


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("ollmlx.web.http")
    config.keep_alive_timeout = IDLE_TIMEOUT
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = HEADER_LIMIT
    config.include_server_header = False
    return config
