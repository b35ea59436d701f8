"""The doorstep: who says something is let in or refused, who says nothing is closed, and no socket is left open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from ollmlx.supervisor.scheduling.arrivals import Arrival
from ollmlx.testing import eventually
from ollmlx.web.server.doorstep import Doorstep
from ollmlx.web.server.entrance import Entrance
from ollmlx.web.server.sockets import listening_socket, served_address

REQUEST = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
ANSWER = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


class Scripted:
    """An entrance that lets everybody in, or refuses everybody."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.clients: list[str] = []

    def connection(self) -> None:
        return None

    def come(self, first: bytes, client: str, arrival: None, enter: Any) -> bytes | None:
        self.clients.append(client)
        if self.answer is None:
            enter()
        return self.answer


class House:
    """A doorstep in front of a scripted entrance, and what was let in."""

    def __init__(self, answer: bytes | None, patience: float) -> None:
        self.entrance = Scripted(answer)
        self.entered: list[bytes] = []
        self.doorstep = Doorstep(cast(Entrance, self.entrance), self._welcome, patience)
        self.sock = listening_socket(served_address("127.0.0.1:0"))

    def _welcome(self, sock: socket.socket, first: bytes, arrival: Arrival) -> None:
        self.entered.append(first)
        sock.close()

    def client(self) -> socket.socket:
        made = socket.create_connection(self.sock.getsockname(), timeout=5)
        made.setblocking(False)
        return made


@asynccontextmanager
async def house(answer: bytes | None = None, patience: float = 60) -> AsyncIterator[House]:
    made = House(answer, patience)
    made.doorstep.open([made.sock])
    try:
        yield made
    finally:
        made.doorstep.shut()
        made.sock.close()


def tidied(made: House) -> bool:
    """Whether nobody is waited for after a look at the time."""
    made.doorstep.tidy()
    return not made.doorstep._strangers


async def heard(client: socket.socket) -> bytes:
    """All that is said to it until the connection ends; a reset is an end, too."""
    loop, everything = asyncio.get_running_loop(), b""
    async with asyncio.timeout(5):
        try:
            while piece := await loop.sock_recv(client, 1000):
                everything += piece
        except ConnectionResetError:
            pass
    return everything


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_said_comes_in_whether_it_is_there_at_once_or_later(late: bool) -> None:
    async with house() as made:
        with made.client() as client:
            if late:
                await eventually(lambda: made.doorstep._strangers)
            client.send(REQUEST)
            await eventually(lambda: made.entered)
        assert made.entered == [REQUEST]
        assert made.entrance.clients == ["127.0.0.1"]
        assert not made.doorstep._strangers


@pytest.mark.fault(41)
async def test_who_is_refused_hears_why_and_the_connection_ends() -> None:
    async with house(ANSWER) as made:
        with made.client() as client:
            client.send(REQUEST)
            assert await heard(client) == ANSWER
        assert not made.doorstep._strangers


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_refused_client_that_still_writes_is_read_to_its_end_or_for_a_while(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not leaves:
        monkeypatch.setattr("ollmlx.web.server.doorstep.LINGER", 0)
    async with house(ANSWER) as made:
        with made.client() as client:
            client.send(REQUEST.replace(b"Length: 2", b"Length: 9"))
            assert await heard(client) == ANSWER, "the answer is complete before the body is"
            assert made.doorstep._strangers
            client.send(b"1234567")
            if leaves:
                client.shutdown(socket.SHUT_WR)
            await eventually(lambda: tidied(made))


async def test_a_client_that_has_reset_its_connection_is_forgotten() -> None:
    async with house(ANSWER) as made:
        gone = made.client()
        gone.send(REQUEST)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        with made.client() as client:  # accepted after the other
            client.send(REQUEST)
            assert await heard(client) == ANSWER
        assert not made.doorstep._strangers


@pytest.mark.fault(39)
async def test_a_connection_that_says_nothing_is_closed_in_time_and_at_the_end() -> None:
    async with house(patience=0) as made:
        with made.client() as client:
            await eventually(lambda: made.doorstep._strangers)
            await eventually(lambda: tidied(made))
            assert await heard(client) == b""
    async with house() as made:
        with made.client() as client:
            await eventually(lambda: made.doorstep._strangers)
            assert not tidied(made), "it has a minute"
            made.doorstep.shut()
            assert await heard(client) == b""
    assert made.entered == []


async def test_who_comes_after_the_end_is_told_so_at_once() -> None:
    async with house() as made:
        address = made.sock.getsockname()
        made.doorstep.shut()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=5)


class Exhausted:
    """A listening socket whose system has no descriptor left, and then has."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.failures = [errno.EMFILE, errno.ECONNABORTED]

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> Any:
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return self._sock.accept()

    def close(self) -> None:
        self._sock.close()


async def test_without_descriptors_it_rests_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollmlx.web.server.doorstep.REST", 0.01)
    made = House(None, 60)
    made.doorstep.open([cast(socket.socket, Exhausted(made.sock))])
    with made.client() as client:
        client.send(REQUEST)
        await eventually(lambda: made.entered)
    made.doorstep.shut()
    assert caplog.messages == ["no connection is accepted for 0 s: Too many open files"]
