"""The entrance: a crowd comes in a few at a time, is refused cheaply, and keeps nobody from looking."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any, cast

import orjson
import pytest

from ollmlx.errors import Busy, OllmlxError
from ollmlx.settings import Settings
from ollmlx.testing import eventually
from ollmlx.web import Exchange
from ollmlx.web.entrance import AT_ONCE, Entrance, Incoming
from ollmlx.web.site import Site

POST = b"POST /api/chat?x=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Configured:
    settings = Settings()


class Writer:
    """What an entrance needs of a StreamWriter."""

    def __init__(self) -> None:
        self.sent = b""
        self.half_closed = self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.half_closed = True

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("10.0.0.7", 1234)}.get(name)


class Door:
    """An entrance, and connections that come with their first bytes."""

    def __init__(self, most: int = 1000, patience: float = 60) -> None:
        self.site = Site(Configured())
        self.told: list[Exchange] = []
        self.site.observers.append(self.told.append)
        self.entrance = Entrance(self.site, self._crowded, patience)
        self._most = most

    def _crowded(self, coming: int) -> OllmlxError | None:
        return None if coming < self._most else Busy("too many", retry_after=2.5)

    def connect(self, first: bytes = b"") -> tuple[asyncio.Task[Incoming | None], asyncio.StreamReader, Writer]:
        reader, writer = asyncio.StreamReader(), Writer()
        if first:
            reader.feed_data(first)
        coming = self.entrance.admit(reader, cast(asyncio.StreamWriter, writer))
        return asyncio.create_task(coming), reader, writer


async def test_a_request_comes_in_as_it_was_sent_and_so_does_what_follows() -> None:
    task, reader, _ = Door().connect(POST)
    incoming = await task
    assert incoming is not None
    assert await incoming.read(65536) == POST
    reader.feed_data(POST)
    assert await incoming.read(65536) == POST
    reader.feed_data(b"more of a body")
    assert await incoming.read(65536) == b"more of a body"
    assert not incoming.at_eof()
    reader.feed_eof()
    assert await incoming.read(65536) == b""
    assert incoming.at_eof()


async def test_requests_take_turns_and_who_only_looks_passes_them_all() -> None:
    door = Door()
    crowd = [door.connect(POST)[0] for _ in range(5 * AT_ONCE)]
    look = door.connect(GET)[0]
    await look
    before = sum(task.done() for task in crowd)
    assert before <= 2 * AT_ONCE
    rounds = [before]
    while not all(task.done() for task in crowd):
        await asyncio.sleep(0)
        rounds.append(sum(task.done() for task in crowd))
    assert all(later - earlier <= AT_ONCE for earlier, later in itertools.pairwise(rounds))


@pytest.mark.fault(41)
async def test_one_too_many_is_refused_in_its_dialect_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(most=0)
    door.site.shapes.add("/api/", lambda failure: {"oops": failure.message})
    with caplog.at_level(logging.INFO, "ollmlx"):
        task, _, writer = door.connect(POST)
        assert await task is None
    head, _, body = writer.sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert {b"retry-after: 3", b"connection: close", b"x-request-id: mine"} <= set(lines)
    assert b"content-length: %d" % len(body) in lines
    assert orjson.loads(body) == {"oops": "too many"}
    assert writer.closed
    assert [(one.path, one.status, one.error, one.client) for one in door.told] == [
        ("/api/chat", 503, "busy", "10.0.0.7")
    ]
    assert caplog.messages == [], "a line a second tells of all of them, not a line each"
    door.entrance._tell()
    assert caplog.messages == ["refused 1 requests unread: they would have waited behind a full queue"]


async def test_a_refused_client_that_still_writes_is_read_to_its_end() -> None:
    task, reader, writer = Door(most=0).connect(POST.replace(b"Length: 2", b"Length: 9"))
    await eventually(lambda: writer.half_closed)
    assert not writer.closed
    reader.feed_data(b"1234567")
    reader.feed_eof()
    assert await task is None
    assert writer.closed


@pytest.mark.parametrize("first", [GET, b"PUT / HTTP/1.1\r\n\r\n", b"POST nonsense", b"POST / HTTP/2.0\r\n\r\n"])
async def test_what_is_no_work_or_no_request_goes_to_the_http_server(first: bytes) -> None:
    incoming = await Door(most=0).connect(first)[0]
    assert incoming is not None
    assert await incoming.read(100) == first


@pytest.mark.fault(39)
async def test_a_connection_that_says_nothing_is_closed_in_time_and_at_the_end() -> None:
    task, _, writer = Door(patience=0.01).connect()
    assert await task is None
    assert writer.closed
    door = Door()
    task, _, writer = door.connect()
    await asyncio.sleep(0)
    door.entrance.close()
    assert await task is None
    assert writer.closed
