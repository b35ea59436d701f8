"""The doorstep: connections that have been accepted and have not said anything yet.

They are bare sockets. A transport and a task are made for those that are let in; to refuse a request costs a few system
calls, so that the last of a thousand hears of it as soon as the first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from ollmlx.supervisor.scheduling.arrivals import Arrival
from ollmlx.web.middleware import LINGER
from ollmlx.web.server.entrance import Entrance
from ollmlx.web.server.refusals import whole

logger = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 256
"""Connections accepted in one round of the event loop: 20 ms, when all of them are refused."""
REST = 1.0
"""Seconds without accepting when the system has no descriptor or no memory for another connection."""
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PIECE = 2**16

Welcome = Callable[[socket.socket, bytes, Arrival], None]
"""Takes over the socket of a request that is let in, and its first bytes."""


class Doorstep:
    """Accepts connections and hears what they want. One that says nothing is closed after `patience` seconds."""

    def __init__(self, entrance: Entrance, welcome: Welcome, patience: float) -> None:
        self._entrance = entrance
        self._welcome = welcome
        self._patience = patience
        self._sockets: list[socket.socket] = []
        self._strangers: set[_Stranger] = set()

    def open(self, sockets: list[socket.socket]) -> None:
        """Begin to accept."""
        self._sockets = list(sockets)
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def shut(self) -> None:
        """Stop listening, and close the connections that have said nothing. May be repeated."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()  # who comes now is told at once, instead of waiting for an answer that never comes
        self._sockets = []
        for stranger in list(self._strangers):
            stranger.close()

    def tidy(self) -> None:
        """Close the connections that were waited for long enough. To be called every second or so."""
        now = asyncio.get_running_loop().time()
        for stranger in [stranger for stranger in self._strangers if stranger.until < now]:
            stranger.close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, peer = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest(sock, error)
                    return
                logger.debug("a connection was gone before it was accepted: %s", error)
                continue
            connection.setblocking(False)
            client = str(peer[0]) if peer else "local"  # macOS names nobody when the client is gone already
            _Stranger(connection, client, self._strangers, self._entrance, self._welcome).listen(self._patience)

    def _rest(self, sock: socket.socket, error: OSError) -> None:
        logger.warning("no connection is accepted for %.0f s: %s", REST, error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(REST, self._resume, sock)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)


class _Stranger:
    """One such connection. `strangers` are those that wait for their client's bytes, each until a time of its own."""

    def __init__(
        self, sock: socket.socket, client: str, strangers: set[_Stranger], entrance: Entrance, welcome: Welcome
    ) -> None:
        self._sock = sock
        self._client = client
        self._strangers = strangers
        self._entrance = entrance
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self.until = 0.0

    def listen(self, patience: float) -> None:
        """Hear what has come already, or wait for it."""
        first = self._read()
        if first is None:
            self._wait(self._hear, patience)
        else:
            self._heard(first)

    def close(self) -> None:
        """Whatever it is at."""
        self._wait_no_more()
        self._sock.close()

    def _read(self) -> bytes | None:
        """What has come; nothing at the end, None while there is nothing yet."""
        try:
            return self._sock.recv(PIECE)
        except BlockingIOError:
            return None
        except OSError:  # reset: an end like another
            return b""

    def _hear(self) -> None:
        first = self._read()
        if first is not None:
            self._wait_no_more()
            self._heard(first)

    def _heard(self, first: bytes) -> None:
        if not first:
            self.close()
            return
        arrival = self._entrance.connection()
        answer = self._entrance.come(first, self._client, arrival, lambda: self._welcome(self._sock, first, arrival))
        if answer is not None:
            self._refuse(first, answer)

    def _refuse(self, first: bytes, answer: bytes) -> None:
        try:
            self._sock.send(answer)  # into an empty buffer: all of it
            if not whole(first):
                self._sock.shutdown(socket.SHUT_WR)
                self._wait(self._discard, LINGER)
                return
        except OSError as error:
            logger.debug("a refused client has left: %s", error)
        self.close()

    def _discard(self) -> None:
        if self._read() == b"":
            self.close()

    def _wait(self, ready: Callable[[], None], patience: float) -> None:
        self.until = self._loop.time() + patience
        self._strangers.add(self)
        self._loop.add_reader(self._sock.fileno(), ready)  # asyncio puts anything but a number into words first: 20 µs

    def _wait_no_more(self) -> None:
        if self in self._strangers:
            self._strangers.discard(self)
            self._loop.remove_reader(self._sock.fileno())
