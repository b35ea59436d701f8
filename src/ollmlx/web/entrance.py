"""The entrance: new requests come in a few at a time, and who cannot be served is told from the first line.

The event loop serves in rounds whoever is ready. With a thousand requests ready at once a round would take seconds,
and nobody would hear from the daemon, `/livez` included. So requests that bring work (POST) take turns, a few in each
round; those that only look pass. Who would have to wait behind more others than the queue takes is refused before its
request is parsed, at a fraction of the cost.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson

from ollmlx.errors import OllmlxError
from ollmlx.web.errors import JSON, failure, failure_headers
from ollmlx.web.exchange import CURRENT, Exchange
from ollmlx.web.request_id import HEADER, request_id

if TYPE_CHECKING:
    from ollmlx.web.site import Site

logger = logging.getLogger(__name__)
AT_ONCE = 2
"""Requests that come in in one round of the event loop: a few milliseconds' work."""
LINGER = 1.0
"""Seconds to go on reading what was refused: a client that is still writing would miss the answer otherwise."""
TOLD_EVERY = 1.0  # seconds
PIECE = 2**16
WORK = b"POST "
HEAD = re.compile(rb"POST (\S{1,2048}) HTTP/1\.[01]\r\n")
SENT_ID = re.compile(rb"\r\n%s:[ \t]*([^\r\n]*)" % HEADER.encode(), re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)

Crowded = Callable[[int], OllmlxError | None]
"""What to tell one more request while so many have not been looked at; None while there may be room."""


class Incoming:
    """A connection's bytes as the HTTP server reads them: each new request waits for its turn."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader, entrance: Entrance) -> None:
        self._first = first
        self._reader = reader
        self._entrance = entrance

    def at_eof(self) -> bool:
        return not self._first and self._reader.at_eof()

    async def read(self, size: int) -> bytes:
        if self._first:
            data, self._first = self._first, b""
            return data
        data = await self._reader.read(size)
        if data.startswith(WORK):
            await self._entrance.turn()
        return data


class Entrance:
    """One for all connections of a daemon. A connection that says nothing for `patience` seconds is closed."""

    def __init__(self, site: Site, crowded: Crowded, patience: float) -> None:
        self._site = site
        self._crowded = crowded
        self._patience = patience
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._silent: set[asyncio.StreamReader] = set()
        self._refused = 0

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Incoming | None:
        """Wait for a first request and its turn. None when there was none, or when it was refused; both are closed."""
        first = await self._first(reader)
        if first.startswith(WORK):
            error = self._crowded(len(self._waiting))
            if error is not None and (head := HEAD.match(first)):
                await self._refuse(error, head, reader, writer)
                return None
            await self.turn()
        if not first:
            writer.close()
            return None
        return Incoming(first, reader, self)

    async def turn(self) -> None:
        """Wait for a turn. First come, first served."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)
        await mine

    def close(self) -> None:
        """Close the connections that have said nothing."""
        for reader in self._silent:
            reader.feed_eof()

    def _next(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)

    async def _first(self, reader: asyncio.StreamReader) -> bytes:
        self._silent.add(reader)
        try:
            async with asyncio.timeout(self._patience):
                return await reader.read(PIECE)
        except (TimeoutError, OSError):
            return b""
        finally:
            self._silent.discard(reader)

    async def _refuse(
        self, error: OllmlxError, head: re.Match[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.write(self._refusal(error, head, writer))
            if not _whole(head.string):
                writer.write_eof()
                async with asyncio.timeout(LINGER):
                    while await reader.read(PIECE):
                        pass
        except (TimeoutError, OSError):
            pass
        finally:
            writer.close()

    def _count(self) -> None:
        """One line a second says how many were refused: a line each would cost more than the refusals."""
        self._refused += 1
        if self._refused == 1:
            asyncio.get_running_loop().call_later(TOLD_EVERY, self._tell)

    def _tell(self) -> None:
        logger.warning("refused %d requests unread: they would have waited behind a full queue", self._refused)
        self._refused = 0

    def _refusal(self, error: OllmlxError, head: re.Match[bytes], writer: asyncio.StreamWriter) -> bytes:
        """The whole answer. Metrics are told of it as of every other."""
        sent = SENT_ID.search(head.string, head.end() - 2)
        path = unquote(head[1].partition(b"?")[0].decode("latin-1"))
        exchange = Exchange(request_id(sent[1].decode("latin-1").strip() if sent else None), "POST", path)
        exchange.client = str((writer.get_extra_info("peername") or ("local",))[0])
        token = CURRENT.set(exchange)
        try:
            found = failure(error)
            exchange.status = found.status
            exchange.in_crowd = True
            body = orjson.dumps(self._site.shapes.of(path)(found))
            self._count()
            self._site.over(exchange)
        finally:
            CURRENT.reset(token)
        headers = [
            (b"content-type", JSON.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *failure_headers(found),
            *exchange.headers(),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (found.status, HTTPStatus(found.status).phrase.encode(), lines, body)


def _whole(request: bytes) -> bool:
    """Whether this is all that the client wants to send."""
    head, _, body = request.partition(b"\r\n\r\n")
    length = LENGTH.search(head + b"\r\n")
    return length is not None and int(length[1]) <= len(body)
