"""Connections: hypercorn's protocol on sockets of our own.

hypercorn's own accept loop waits without limit for open connections on Python 3.12.1 and later, whatever its
`graceful_timeout` says, and shows nobody the transports. Here a connection whose client stopped reading can be dropped,
and all of them at the end; what comes in, and when, is the entrance's matter.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.utils import wrap_app

from ollmlx.supervisor.scheduling.arrivals import ARRIVAL, Arrival
from ollmlx.web.middleware import LINGER
from ollmlx.web.server.doorstep import PIECE, Doorstep
from ollmlx.web.server.entrance import Entrance, House
from ollmlx.web.server.refusals import whole
from ollmlx.web.state import state_of

if TYPE_CHECKING:
    from quart import Quart

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 20
"""Seconds a connection may sit idle between requests, or take to send the headers of one."""
HEADER_LIMIT = 32 * 1024
LOOK = 1.0
"""Seconds between two looks for clients that stopped reading, or say nothing."""


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

    def __init__(self, app: Quart, sockets: list[socket.socket], *, write_timeout: float, house: House) -> None:
        self._app = app
        self._entrance = Entrance(state_of(app), house)
        self._doorstep = Doorstep(self._entrance, self._welcome, IDLE_TIMEOUT)
        self._sockets = sockets
        self._write_timeout = write_timeout
        self._config = _config()
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept."""
        await self._app.startup()
        self._doorstep.open(self._sockets)
        self._watch = asyncio.create_task(self._look(), name="slow-clients")

    async def stop(self, patience: float) -> None:
        """Stop listening, let connections end by themselves for `patience` seconds, then drop them. May be repeated."""
        if self._watch is None:
            return
        self._doorstep.shut()
        self._entrance.close()
        await asyncio.sleep(0)  # who has waited for a turn on a used connection is no longer idle then
        await self._context.terminated.set()  # connections that are idle close now
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=patience)
        for connection in self._open():
            connection.transport.abort()
        if self._connections:
            _, left = await asyncio.wait(list(self._connections), timeout=patience)
            for task in left:
                task.cancel()
        self._watch.cancel()
        self._watch = None
        await self._app.shutdown()

    def _welcome(self, sock: socket.socket, first: bytes, arrival: Arrival) -> None:
        task = asyncio.create_task(self._serve(sock, first, arrival), name="connection")
        self._connections[task] = None
        task.add_done_callback(self._over)

    async def _serve(self, sock: socket.socket, first: bytes, arrival: Arrival) -> None:
        ARRIVAL.set(arrival)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            try:
                transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
            except OSError:
                sock.close()
                raise
            task = asyncio.current_task()
            assert task is not None
            self._connections[task] = Connection(transport)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            incoming: Any = Incoming(first, reader, writer, arrival, self._entrance)
            served = wrap_app(self._app, 0, "asgi")
            await _Server(served, loop, self._config, self._context, {}, incoming, writer)
        finally:
            arrival.seen()

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):  # macOS sets no options for a client that has left; a network may be gone
            logger.debug("a connection was lost: %s", error)
        elif error is not None:
            logger.error("a connection ended with an error", exc_info=error)

    def _open(self) -> list[Connection]:
        return [connection for connection in self._connections.values() if connection is not None]

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self._doorstep.tidy()
            now = asyncio.get_running_loop().time()
            for connection in self._open():
                if connection.stalled(now) > self._write_timeout:
                    logger.warning("a client that reads nothing is dropped after %.0f s", self._write_timeout)
                    connection.transport.abort()


class Incoming:
    """A connection's bytes as the HTTP server reads them: each new request waits for its turn, or is refused."""

    def __init__(
        self,
        first: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        arrival: Arrival,
        entrance: Entrance,
    ) -> None:
        self.idle = False
        """No request is being read or answered: what comes begins one."""
        self._first = first
        self._reader = reader
        self._writer = writer
        self._arrival = arrival
        self._entrance = entrance
        self._refused = False

    def at_eof(self) -> bool:
        return self._refused or (not self._first and self._reader.at_eof())

    async def read(self, size: int) -> bytes:
        if self._first:
            data, self._first = self._first, b""
            return data
        data = await self._reader.read(size)
        if data and self.idle:
            client = str((self._writer.get_extra_info("peername") or ("local",))[0])
            answer = await self._entrance.turn(data, client, self._arrival)
            if answer is not None:
                await self._refuse(data, answer)
                return b""
        return data

    async def _refuse(self, request: bytes, answer: bytes) -> None:
        self._refused = True
        self._writer.write(answer)
        await asyncio.sleep(0)  # others hear theirs before this connection is closed, which takes longer
        if not whole(request):
            self._writer.write_eof()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while await self._reader.read(PIECE):
                        pass


class _Server(TCPServer):
    """Says `404 Not Found` where hypercorn says `404 `: some clients have no other words for an error. Closes a
    connection when its client has, where hypercorn waits for another request until `keep_alive_timeout`."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            incoming: Any = self.reader
            incoming.idle = event.idle
            if event.idle and incoming.at_eof():
                return
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
