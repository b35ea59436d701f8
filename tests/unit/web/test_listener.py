"""What the listener adds to hypercorn's answers, and that no connection is left open when it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from quart import Blueprint, Response

from ollmlx import Service
from ollmlx.errors import OllmlxError
from ollmlx.supervisor.arrivals import Arrivals
from ollmlx.supervisor.clock import SystemClock
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.web import json_answer
from ollmlx.web.doorstep import PIECE
from ollmlx.web.listener import HEADER_LIMIT, Listener, phrased
from ollmlx.web.sockets import listening_socket, served_address

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Roomy:
    """A house with room for everybody."""

    def __init__(self) -> None:
        self.arrivals = Arrivals(SystemClock())

    def crowded(self, waiting: int) -> OllmlxError | None:
        return None


def greeting(service: Service) -> Blueprint:
    made = Blueprint("greeting", __name__)

    @made.get("/hello")
    async def hello() -> Response:
        return json_answer("hello")

    return made


@pytest.mark.fault(18)
@pytest.mark.parametrize("rounds", range(6))
async def test_a_connection_that_comes_while_it_stops_is_answered_or_closed(rounds: int) -> None:
    sock = listening_socket(served_address("127.0.0.1:0"))
    listener = Listener(web_app(FakeService(), greeting), [sock], write_timeout=60, house=Roomy())
    await listener.start()
    clients = [socket.create_connection(sock.getsockname(), timeout=5) for _ in range(5)]
    for client in clients:
        client.sendall(GET)
    for _ in range(rounds):  # of the event loop: each leaves the connections at another step of being accepted
        await asyncio.sleep(0)
    await listener.stop(1)
    sock.close()
    for client in clients:
        with client:
            try:
                heard = await asyncio.to_thread(client.recv, 1000)
            except ConnectionResetError:
                heard = b""
        assert heard == b"" or heard.startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, int]]:
    """Where it listens."""
    sock = listening_socket(served_address("127.0.0.1:0"))
    listener = Listener(web_app(FakeService(), greeting), [sock], write_timeout=60, house=Roomy())
    await listener.start()
    try:
        yield sock.getsockname()
    finally:
        await listener.stop(1)
        sock.close()


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a little, often, for ever: never silent, never done."""
    try:
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    "begun", [b"", b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: ", GET + b"GET /hello HTTP/1.1\r\nX: "]
)
async def test_headers_that_do_not_end_are_given_up_however_busily_they_come(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("ollmlx.web.listener.IDLE_TIMEOUT", 0.3)
    async with listening() as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(begun)
        dripping = asyncio.create_task(drip(writer, b"a" if begun else b""))
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass
        dripping.cancel()
        writer.close()


async def test_headers_beyond_the_limit_are_refused_and_end_the_connection() -> None:
    async with listening() as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (HEADER_LIMIT + PIECE))
        heard = b""
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                while piece := await reader.read(1000):
                    heard += piece
        assert heard == b"" or heard.startswith(b"HTTP/1.1 4")
        writer.close()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 404 \r\na: b\r\n\r\n", b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n"),
        (b"HTTP/1.1 200 \r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"HTTP/1.1 404 Gone fishing\r\n\r\n", b"HTTP/1.1 404 Gone fishing\r\n\r\n"),
        (b"HTTP/1.1 599 \r\n\r\n", b"HTTP/1.1 599 \r\n\r\n"),
        (b"5\r\nhello\r\n", b"5\r\nhello\r\n"),
        (b"HTTP/1.1 404 \r\nis how an answer begins", b"HTTP/1.1 404 \r\nis how an answer begins"),
        (b"", b""),
    ],
)
def test_a_status_gets_its_phrase_and_nothing_else_is_touched(sent: bytes, said: bytes) -> None:
    assert phrased(sent) == said
