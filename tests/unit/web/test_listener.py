"""What the listener adds to hypercorn's answers, and that no connection is left open when it stops."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

import pytest
from quart import Blueprint, Response

from ollmlx import Service
from ollmlx.errors import Busy, OllmlxError
from ollmlx.supervisor.clock import SystemClock
from ollmlx.supervisor.scheduling.arrivals import Arrivals
from ollmlx.testing import eventually
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.web import json_answer, read_json, upload
from ollmlx.web.server.doorstep import PIECE
from ollmlx.web.server.listener import HEADER_LIMIT, Listener, phrased
from ollmlx.web.server.sockets import listening_socket, served_address
from ollmlx.web.state import state_of

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Roomy:
    """A house with room for everybody."""

    def __init__(self) -> None:
        self.arrivals = Arrivals(SystemClock())

    def crowded(self, model: str) -> OllmlxError | None:
        return None


class Full(Roomy):
    """A house with room for nobody."""

    def crowded(self, model: str) -> OllmlxError | None:
        return Busy("full")


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
    for client in clients:
        with client:
            try:
                heard = await asyncio.to_thread(client.recv, 1000)
            except ConnectionResetError:
                heard = b""
        assert heard == b"" or heard.startswith(b"HTTP/1.1 200")


@pytest.mark.fault(18)
@pytest.mark.parametrize("used", [False, True])
async def test_who_waits_for_a_turn_when_it_stops_is_answered(used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(greeting) as (listener, address):
        reader, writer = await asyncio.open_connection(*address)
        if used:
            writer.write(GET)
            await reader.readuntil(b'"hello"')
        monkeypatch.setattr("ollmlx.web.server.entrance.AT_ONCE", 0)
        writer.write(b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        await eventually(lambda: listener._entrance._line)
        await listener.stop(5)
        assert (await reader.read()).startswith(b"HTTP/1.1 405")
        writer.close()


@pytest.mark.fault(41)
@pytest.mark.parametrize("length", [2, 9])
async def test_one_too_many_on_a_used_connection_is_refused_and_the_connection_ends(length: int) -> None:
    async with serving(greeting) as (listener, address):
        state_of(listener._app).work.add("/hello")
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        await reader.readuntil(b'"hello"')
        listener._entrance._house = Full()
        writer.write(b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{}" % length)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b'{"error":"full"}')
        assert answer.count(b"HTTP/1.1") == 1
        if length > 2:
            assert listener._connections, "what it still sends is read"
            writer.write(b"more of ")
        writer.close()
        await eventually(lambda: not listener._connections)


async def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    bodies: list[bytes] = []
    begun = asyncio.Event()

    def family(service: Service) -> Blueprint:
        made = Blueprint("reader", __name__)

        @made.post("/hello")
        async def hello() -> Response:
            begun.set()
            bodies.extend([piece async for piece in upload()])
            return json_answer("read")

        return made

    async with serving(family) as (listener, address):
        state_of(listener._app).work.add("/hello")
        reader, writer = await asyncio.open_connection(*address)
        request = b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 35\r\n\r\n"
        body = b"POST /hello HTTP/1.1\r\nHost: local\r\n"[:35]
        for _ in range(2):
            writer.write(request)
            await begun.wait()
            begun.clear()
            listener._entrance._house = Full()
            writer.write(body)
            await reader.readuntil(b'"read"')
            listener._entrance._house = Roomy()
        writer.close()
    assert b"".join(bodies) == 2 * body


@asynccontextmanager
async def serving(family: Callable[[Service], Blueprint]) -> AsyncIterator[tuple[Listener, tuple[str, int]]]:
    """A listener, and where it listens."""
    sock = listening_socket(served_address("127.0.0.1:0"))
    listener = Listener(web_app(FakeService(), family), [sock], write_timeout=60, house=Roomy())
    await listener.start()
    try:
        yield listener, sock.getsockname()
    finally:
        await listener.stop(1)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, int]]:
    """Where it listens."""
    async with serving(greeting) as (_, address):
        yield address


@pytest.mark.fault(40)
@pytest.mark.parametrize("request_", [GET, GET.replace(b"localhost", b"stranger.example")])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_connection_ends_when_its_client_has_left(request_: bytes, at_once: bool) -> None:
    async with serving(greeting) as (listener, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request_)
        if at_once:
            writer.write_eof()
            async with asyncio.timeout(5):
                await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            assert listener._connections, "another request may follow"
            writer.close()
        await eventually(lambda: not listener._connections)
        writer.close()


async def whole_body() -> None:
    await read_json()


async def pieces() -> None:
    async for _ in upload():
        pass


@pytest.mark.fault(40)
@pytest.mark.parametrize(("reads", "length"), [(whole_body, 2), (pieces, 9)])
async def test_the_request_of_a_client_that_leaves_with_it_is_not_served(
    reads: Callable[[], Awaitable[None]], length: int
) -> None:
    ends: list[BaseException] = []

    def family(service: Service) -> Blueprint:
        made = Blueprint("patience", __name__)

        @made.post("/hello")
        async def hello() -> Response:
            try:
                await reads()
                await asyncio.Event().wait()
            except asyncio.CancelledError as ended:
                ends.append(ended)
                raise
            return json_answer("never")

        return made

    async with serving(family) as (listener, address):
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{}" % length)
        writer.write_eof()
        await eventually(lambda: ends)
        await eventually(lambda: not listener._connections)
        writer.close()


@pytest.mark.parametrize("when", ["at the beginning", "at the end"])
async def test_a_client_that_is_lost_is_no_error_of_ours(
    when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(*_: Any) -> NoReturn:
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    async with serving(greeting) as (listener, address):
        reader, writer = await asyncio.open_connection(*address)
        if when == "at the beginning":
            monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", lost)
        else:
            monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", lost)
        with caplog.at_level(logging.DEBUG, "ollmlx.web.server.listener"):
            writer.write(GET)
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            await eventually(lambda: caplog.messages)
        assert [record.levelname for record in caplog.records] == ["DEBUG"]
        assert not listener._connections
        writer.close()


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
    monkeypatch.setattr("ollmlx.web.server.listener.IDLE_TIMEOUT", 0.3)
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
