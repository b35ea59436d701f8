"""HTTP connections over real sockets: what clients see of an answer, an idle connection, a slow client and a stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress

import pytest
from quart import Blueprint, Response

from ollmlx import Service
from ollmlx.testing.routes import FakeService, web_app
from ollmlx.web import json_answer, read_json, upload
from ollmlx.web.server.connections import HEADER_LIMIT, HTTPServer
from ollmlx.web.server.limits import ConnectionLimits
from ollmlx.web.server.sockets import listening_socket, served_address

GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANG_GUARD = 60
READ_SIZE = 2**16
NEVER = 1e6

View = Callable[[], Awaitable[Response]]


async def greeting() -> Response:
    return json_answer("hello")


class Patient:
    """A route that never answers, and notes how its requests begin and end."""

    def __init__(self, read_body: Callable[[], Awaitable[object]] | None = None) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._read_body = read_body

    async def answer(self) -> Response:
        self.begun.set()
        try:
            if self._read_body is not None:
                await self._read_body()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return json_answer("never")


@asynccontextmanager
async def serving(
    view: View, write_timeout: float = NEVER
) -> AsyncIterator[tuple[HTTPServer, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server with one route, `/hello`, and one connection to it."""

    def family(service: Service) -> Blueprint:
        made = Blueprint("hello", __name__)
        made.add_url_rule("/hello", "hello", view, methods=["GET", "POST"])
        return made

    sock = listening_socket(served_address("127.0.0.1:0"))
    server = HTTPServer(web_app(FakeService(), family), sock, write_timeout, ConnectionLimits())
    await server.start()
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    try:
        async with asyncio.timeout(HANG_GUARD):
            yield server, reader, writer
    finally:
        writer.close()
        await server.stop(1)


async def head(reader: asyncio.StreamReader) -> bytes:
    """The status line and the headers of the next answer; its body is read, too."""
    lines = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in lines.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return lines


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends."""
    received = b""
    with suppress(ConnectionError):
        while piece := await reader.read(READ_SIZE):
            received += piece
    return received


async def test_answers_have_a_reason_phrase_and_the_connection_stays_open() -> None:
    async with serving(greeting) as (_, reader, writer):
        for path, status_line in ((b"/hello", b"HTTP/1.1 200 OK\r\n"), (b"/none", b"HTTP/1.1 404 Not Found\r\n")):
            writer.write(GET.replace(b"/hello", path))
            assert (await head(reader)).startswith(status_line)


async def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    async with serving(Patient(read_json).answer) as (_, reader, writer):
        writer.write(b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue\r\n")


async def test_an_upgrade_to_http2_is_answered_in_http1() -> None:
    async with serving(greeting) as (_, reader, writer):
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        for _ in range(2):
            writer.write(GET[:-2] + upgrade)
            assert (await head(reader)).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "request_",
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GET[:-2] + b"X: " + b"a" * (HEADER_LIMIT + READ_SIZE)],
    ids=["HTTP/2", "headers beyond the limit"],
)
async def test_what_is_not_served_is_refused_and_ends_the_connection(request_: bytes) -> None:
    async with serving(greeting) as (_, reader, writer):
        writer.write(request_)
        received = await rest(reader)
        assert received == b"" or received.startswith(b"HTTP/1.1 4")


@pytest.mark.fault(41)
async def test_two_hundred_connections_at_once_are_all_answered() -> None:
    async with serving(greeting) as (_, _, writer):
        connections = [await asyncio.open_connection(*writer.get_extra_info("peername")) for _ in range(200)]
        for _, one in connections:
            one.write(GET)
        answers = await asyncio.gather(*(head(reader) for reader, _ in connections))
        assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
        for _, one in connections:
            one.close()


@pytest.mark.fault(18)
@pytest.mark.parametrize("rounds", range(6))
async def test_a_connection_that_comes_while_the_server_stops_is_answered_or_closed(rounds: int) -> None:
    async with serving(greeting) as (server, _, writer):
        clients = [socket.create_connection(writer.get_extra_info("peername"), timeout=HANG_GUARD) for _ in range(5)]
        for client in clients:
            client.sendall(GET)
        for _ in range(rounds):  # of the event loop: each leaves the connections at another step of being accepted
            await asyncio.sleep(0)
        await server.stop(HANG_GUARD)
        for client in clients:
            with closing(client), suppress(ConnectionResetError):
                received = client.recv(1000)
                assert received == b"" or received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.fault(18)
async def test_an_idle_connection_is_closed_when_the_server_stops() -> None:
    async with serving(greeting) as (server, reader, writer):
        writer.write(GET)
        await head(reader)
        await server.stop(NEVER)
        assert await rest(reader) == b""


@pytest.mark.fault(18)
async def test_a_request_that_does_not_end_is_aborted_when_the_server_stops() -> None:
    patient = Patient()
    async with serving(patient.answer) as (server, reader, writer):
        writer.write(GET)
        await patient.begun.wait()
        await server.stop(0.01)
        assert await rest(reader) == b""
        assert patient.cancelled.is_set()


@pytest.mark.fault(40)
async def test_a_connection_ends_when_its_client_has_closed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollmlx.web.server.connections.IDLE_TIMEOUT", NEVER)
    async with serving(greeting) as (_, reader, writer):
        writer.write(GET)
        await head(reader)
        writer.write_eof()
        assert await rest(reader) == b""


async def read_pieces() -> None:
    async for _ in upload():
        pass


@pytest.mark.fault(40)
@pytest.mark.parametrize(("read_body", "length"), [(read_json, 2), (read_pieces, 9)])
async def test_the_request_of_a_client_that_leaves_is_cancelled(
    read_body: Callable[[], Awaitable[object]], length: int
) -> None:
    patient = Patient(read_body)
    async with serving(patient.answer) as (_, _, writer):
        writer.write(b"POST /hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{}" % length)
        writer.write_eof()
        await patient.cancelled.wait()


async def test_a_connection_that_is_reset_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    patient = Patient()
    async with serving(patient.answer) as (server, _, writer):
        with caplog.at_level(logging.INFO), socket.create_connection(writer.get_extra_info("peername")) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(GET)
            await patient.begun.wait()
            client.close()
            await patient.cancelled.wait()
            writer.close()
            await server.stop(HANG_GUARD)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.fault(39)
@pytest.mark.parametrize("write_timeout", [0.0, NEVER])
async def test_only_a_client_that_reads_nothing_for_write_timeout_is_dropped(write_timeout: float) -> None:
    ended = asyncio.Event()
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        try:
            while True:
                sent += READ_SIZE
                await asyncio.sleep(0)
                yield bytes(READ_SIZE)
        finally:
            ended.set()

    async def endless() -> Response:
        return Response(pieces())

    async with serving(endless, write_timeout) as (_, reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        if write_timeout:
            while sent < 100 * READ_SIZE:
                await reader.read(READ_SIZE)
            assert not ended.is_set()
        else:
            await ended.wait()


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a little, often, without end."""
    with suppress(ConnectionError):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "begun", [b"", b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX: ", GET + b"GET /hello HTTP/1.1\r\nX: "]
)
async def test_headers_that_do_not_end_are_given_up_however_often_more_comes(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("ollmlx.web.server.connections.IDLE_TIMEOUT", 0.3)
    async with serving(greeting) as (_, reader, writer):
        writer.write(begun)
        dripping = asyncio.create_task(drip(writer, b"a" if begun else b""))
        await rest(reader)
        dripping.cancel()
