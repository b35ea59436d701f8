"""The events of one request on their way to the socket: batches, back-pressure, and how every stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollmlx.errors import Unsupported
from ollmlx.runner.host import BUFFER_BYTES, EventStream
from ollmlx.testing import eventually
from ollmlx.types import Done, Event, Text


async def all_of(stream: EventStream) -> list[dict[str, Any]]:
    data = b""
    while batch := await stream.take():
        data += batch
    return [json.loads(line) for line in data.splitlines()]


async def test_events_that_do_not_wait_come_in_one_batch() -> None:
    async def events() -> AsyncIterator[Event]:
        for _ in range(10):
            yield Text(text="x")
        yield Done()

    stream = EventStream(events())
    assert (await stream.take()).count(b"\n") == 11
    assert await stream.take() == b""


async def test_an_event_does_not_wait_for_the_next() -> None:
    later = asyncio.Event()

    async def events() -> AsyncIterator[Event]:
        yield Text(text="x")
        await later.wait()
        yield Done()

    stream = EventStream(events())
    assert b'"x"' in await asyncio.wait_for(stream.take(), 60)
    later.set()
    assert b'"done"' in await stream.take()


async def test_an_end_without_done_is_an_error() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Text(text="x")

    last = (await all_of(EventStream(events())))[-1]
    assert (last["type"], last["kind"]) == ("error", "runner_failed")
    assert "without a result" in last["message"]


async def test_events_after_done_are_not_sent() -> None:
    async def events() -> AsyncIterator[Event]:
        yield Done()
        yield Text(text="late")

    assert [line["type"] for line in await all_of(EventStream(events()))] == ["done"]


async def test_a_failure_before_any_event_is_kept_for_a_status() -> None:
    async def events() -> AsyncIterator[Event]:
        for _ in range(0):
            yield Done()
        raise Unsupported("no")

    stream = EventStream(events())
    assert await stream.take() == b""
    assert isinstance(stream.failure, Unsupported)


async def test_a_full_buffer_holds_the_engine_back() -> None:
    made = 0

    async def events() -> AsyncIterator[Event]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield Text(text="x" * 1000)
        yield Done()

    stream = EventStream(events())
    await eventually(lambda: made > 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert made < 3 * BUFFER_BYTES / 1000
    assert len(await all_of(stream)) == 1001


@pytest.mark.parametrize("started", [True, False])
async def test_aborting_ends_the_stream_with_an_error_and_closes_the_engine(started: bool) -> None:
    closed = []

    async def events() -> AsyncIterator[Event]:
        try:
            yield Text(text="x")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    stream = EventStream(events())
    if started:
        await stream.take()
    stream.abort("closing")
    lines = await all_of(stream)
    if started:
        assert lines[-1]["message"] == "closing"
        assert closed
    else:
        assert str(stream.failure) == "closing"
    await stream.close()


async def test_closing_waits_until_the_engines_iterator_is_closed() -> None:
    closed = []

    async def events() -> AsyncIterator[Event]:
        try:
            await asyncio.Event().wait()
            yield Done()
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    stream = EventStream(events())
    await asyncio.sleep(0)
    await stream.close()
    assert closed
