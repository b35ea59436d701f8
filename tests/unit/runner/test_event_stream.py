"""The end of one request's events: every stream has one, and only one. tests/contract tests the rest over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from ollmlx.runner.host import EventStream
from ollmlx.types import Done, Event, Text


async def sent(*events: Event) -> list[dict[str, Any]]:
    async def source() -> AsyncIterator[Event]:
        for event in events:
            yield event

    stream = EventStream(source())
    data = b""
    while batch := await stream.take():
        data += batch
    return [json.loads(line) for line in data.splitlines()]


async def test_an_end_without_done_is_an_error() -> None:
    last = (await sent(Text(text="x")))[-1]
    assert (last["type"], last["kind"]) == ("error", "runner_failed")
    assert "without a result" in last["message"]


async def test_events_after_done_are_not_sent() -> None:
    assert [line["type"] for line in await sent(Done(), Text(text="late"))] == ["done"]


async def test_a_stream_that_is_aborted_before_it_began_has_failed() -> None:
    async def never() -> AsyncIterator[Event]:
        await asyncio.Event().wait()
        yield Done()

    stream = EventStream(never())
    stream.abort("closing")
    assert await stream.take() == b""
    assert str(stream.failure) == "closing"


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
