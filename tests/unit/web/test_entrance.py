"""The entrance: a crowd comes in a few at a time, who is one too many is told so, and who only looks passes."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from ollmlx.errors import Busy, OllmlxError
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import SystemClock
from ollmlx.supervisor.scheduling.arrivals import Arrivals
from ollmlx.testing import eventually
from ollmlx.web.server.entrance import AT_ONCE, Entrance
from ollmlx.web.state import WebState

CHAT = b"POST /api/chat?x=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
SHOW = CHAT.replace(b"chat", b"show")
PAGE = CHAT.replace(b"Content-Length", b"origin: http://localhost\r\nContent-Length")
TAGS = b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Configured:
    settings = Settings()


class House:
    """Has room for so many requests that have not asked for a runner."""

    def __init__(self, room: int) -> None:
        self.arrivals = Arrivals(SystemClock())
        self.room = room
        self.asked: list[str] = []

    def crowded(self, model: str) -> OllmlxError | None:
        self.asked.append(model)
        return None if len(self.arrivals) < self.room else Busy("too many", retry_after=2.5)


class Door:
    """An entrance, those that were let in, and those that were refused."""

    def __init__(self, room: int = 1000) -> None:
        self.house = House(room)
        self.site = WebState(Configured())
        self.site.work.add("/api/chat")
        self.entrance = Entrance(self.site, self.house)
        self.entered: list[bytes] = []
        self.refused: list[bytes] = []

    def come(self, first: bytes) -> None:
        arrival = self.entrance.connection()
        answer = self.entrance.come(first, "10.0.0.7", arrival, lambda: self.entered.append(first))
        if answer is not None:
            self.refused.append(answer)

    async def turn(self, first: bytes) -> bytes | None:
        return await self.entrance.turn(first, "10.0.0.7", self.entrance.connection())


@pytest.mark.parametrize("asked", [CHAT, SHOW, TAGS, b"POST /liv", b"POST /livez HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0"])
async def test_requests_take_turns_and_who_asks_how_the_daemon_is_passes_them_all(asked: bytes) -> None:
    door = Door()
    for _ in range(5 * AT_ONCE):
        door.come(asked)
    door.come(GET)
    assert door.entered == [GET]
    rounds = [0]
    while door.entered.count(asked) < 5 * AT_ONCE:
        await asyncio.sleep(0)
        rounds.append(door.entered.count(asked))
    assert {later - earlier for earlier, later in itertools.pairwise(rounds)} == {AT_ONCE}


@pytest.mark.fault(41)
async def test_of_a_crowd_exactly_those_come_in_for_whom_there_is_room() -> None:
    door = Door(room=7)
    for _ in range(3):
        for _ in range(4):
            door.come(CHAT)
        await asyncio.sleep(0)  # some are let in now, and are expected by the house
    assert len(door.refused) == 5
    await eventually(lambda: len(door.entered) == 7)
    assert (len(door.house.arrivals), len(door.refused)) == (7, 5)


@pytest.mark.parametrize(
    "first",
    [GET, TAGS, SHOW, b"PUT /api/chat HTTP/1.1\r\n\r\n", b"POST nonsense", b"POST /api/chat HTTP/2.0\r\n\r\n", b"PO"],
)
async def test_what_needs_no_runner_or_is_no_request_comes_in_however_full_the_house_is(first: bytes) -> None:
    door = Door(room=0)
    for _ in range(20):
        door.come(first)
    await eventually(lambda: len(door.entered) == 20)
    assert (len(door.house.arrivals), door.refused) == (0, [])


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "a:1b", "prompt": "x"}', "a:1b"),
        (b'{"prompt":"\\"model\\": \\"b\\"","model":"a"}', "a"),
        ('{"model":"größe"}'.encode(), "größe"),
        (b'{"prompt": "x"}', ""),
        (b'{"model": "a\\u0062"}', ""),
        (b'{"model": 3}', ""),
        (b"", ""),
    ],
)
async def test_the_model_is_looked_for_in_the_body_that_has_come(body: bytes, model: str) -> None:
    door = Door()
    door.come(b'POST /api/chat HTTP/1.1\r\nX: "model":"header"\r\n\r\n' + body)
    assert door.house.asked == [model]
    assert door.house.arrivals.of(model) == 1
    await eventually(lambda: door.entered)
    assert door.house.arrivals.of(model) == 1


async def test_a_page_of_a_browser_gets_an_answer_that_it_can_read() -> None:
    door = Door(room=0)
    door.come(PAGE)
    await eventually(lambda: door.entered)
    assert (len(door.house.arrivals), door.refused) == (1, [])


@pytest.mark.parametrize("more", [b"", b"?" + b"x" * 3000])
async def test_a_path_or_a_query_that_is_too_long_is_not_taken_for_a_shorter_one(more: bytes) -> None:
    door = Door(room=0)
    path = "/" + "a" * 2047
    door.site.work.add(path)
    door.come(b"POST %s%s HTTP/1.1\r\n\r\n" % (path.encode(), more or b"a"))
    await eventually(lambda: door.entered)
    door.come(b"POST %s HTTP/1.1\r\n\r\n" % path.encode())
    assert len(door.refused) == 1


async def test_a_connection_that_was_used_before_waits_for_its_turn_and_is_counted() -> None:
    door = Door(room=AT_ONCE + 1)
    for _ in range(AT_ONCE):
        door.come(CHAT)
    used = asyncio.create_task(door.turn(CHAT))
    await asyncio.sleep(0)
    assert (len(door.entered), used.done()) == (AT_ONCE, False)
    door.come(CHAT)
    assert len(door.refused) == 1
    assert await used is None
    assert await door.turn(GET) is None
    refused = await door.turn(CHAT)
    assert refused is not None
    assert refused.startswith(b"HTTP/1.1 503 ")


async def test_a_used_connection_that_is_gone_before_its_turn_holds_nobody_up() -> None:
    door = Door()
    used = asyncio.create_task(door.turn(CHAT))
    await asyncio.sleep(0)
    used.cancel()
    door.come(CHAT)
    await eventually(lambda: door.entered)


async def test_at_the_end_everybody_comes_in_at_once() -> None:
    door = Door()
    for _ in range(3 * AT_ONCE):
        door.come(CHAT)
    door.entrance.close()
    assert len(door.entered) == 3 * AT_ONCE
    await asyncio.sleep(0)
    door.come(CHAT)
    await asyncio.sleep(0)
    assert len(door.entered) == 3 * AT_ONCE + 1
