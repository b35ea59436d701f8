"""The pump between engine and socket: batches, back-pressure, and how every stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollmlx.errors import Unsupported
from ollmlx.runner.pump import ROOM_BYTES, Pump
from ollmlx.testing import eventually
from ollmlx.types import Done, Event, Text


async def all_of(pump: Pump) -> list[dict[str, Any]]:
    data = b""
    while batch := await pump.take():
        data += batch
    return [json.loads(line) for line in data.splitlines()]


async def test_events_that_do_not_wait_come_in_one_batch() -> None:
    async def events() -> AsyncIterator[Event]:
        for _ in range(10):
            yield Text(text="x")
        yield Done()

    pump = Pump(events())
    assert (await pump.take()).count(b"\n") == 11
    assert await pump.take() == b""


async def test_an_event_does_not_wait_for_the_next() -> None:
    later = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield Text(text="x")
        await later.wait()
        yield Done()

    pump = Pump(events())
    assert b'"x"' in await asyncio.wait_for(pump.take(), 60)
    later.set()
    assert b'"done"' in await pump.take()


async def test_an_end_without_done_is_an_error() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Text(text="x")

    last = (await all_of(Pump(events())))[-1]
    assert (last["type"], last["kind"]) == ("error", "runner_failed")
    assert "without a result" in last["message"]


async def test_what_comes_after_done_is_not_sent() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Done()
        yield Text(text="late")

    assert [line["type"] for line in await all_of(Pump(events()))] == ["done"]


async def test_a_failure_before_any_event_is_kept_for_a_status() -> None:
    async def events() -> AsyncIterator[Event]:
        for _ in range(0):
            yield Done()
        raise Unsupported("no")

    pump = Pump(events())
    assert await pump.take() == b""
    assert isinstance(pump.failure, Unsupported)


async def test_a_full_buffer_holds_the_engine_back() -> None:
    made = 0

    async def events() -> AsyncIterator[Event]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield Text(text="x" * 1000)
        yield Done()

    pump = Pump(events())
    await eventually(lambda: made > 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert made < 3 * ROOM_BYTES / 1000
    assert len(await all_of(pump)) == 1001


@pytest.mark.parametrize("started", [True, False])
async def test_aborting_ends_the_stream_with_an_error_and_closes_the_engine(started: bool) -> None:
    closed = []

    async def events() -> AsyncIterator[Event]:
        try:
            yield Text(text="x")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    pump = Pump(events())
    if started:
        await pump.take()
    pump.abort("closing")
    lines = await all_of(pump)
    if started:
        assert lines[-1]["message"] == "closing"
        assert closed
    else:
        assert str(pump.failure) == "closing"
    await pump.close()


async def test_closing_waits_until_the_engine_has_let_go() -> None:
    closed = []

    async def events() -> AsyncIterator[Event]:
        try:
            await asyncio.Event().wait()
            yield Done()
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    pump = Pump(events())
    await asyncio.sleep(0)
    await pump.close()
    assert closed
