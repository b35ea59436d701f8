"""SerialEngine: a plain generator on one thread, one request at a time, cancellable between events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ollmlx import closing
from ollmlx.errors import Unsupported
from ollmlx.protocol import RunnerConfig
from ollmlx.runner.host import EventStream
from ollmlx.runner.kit import SerialEngine
from ollmlx.runner.kit.serial import AHEAD
from ollmlx.testing import eventually, fake_model
from ollmlx.types import Done, Event, GenerateRequest, Text

REQUEST = GenerateRequest(prompt="x")
CONFIG = RunnerConfig(runner="r", token="t", model=fake_model(), context_length=8)


class Counting(SerialEngine):
    """Yields numbers up to a limit, and records threads and overlaps."""

    name = "counting"

    def __init__(self, limit: int = 5) -> None:
        super().__init__()
        self.limit = limit
        self.made = 0
        self.closed = 0
        self.threads: set[int] = set()
        self.together = 0
        self.most_together = 0
        self.prepared = False
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, config: RunnerConfig) -> None:
        self.prepared = True

    def stream(self, request: GenerateRequest) -> Iterator[Event]:
        self.gate.wait()
        self.threads.add(threading.get_ident())
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            for number in range(self.limit):
                self.made += 1
                yield Text(text=str(number))
            if request.prompt == "fail":
                raise Unsupported("no")
            yield Done(prompt_tokens=2, generated_tokens=self.limit)
        finally:
            self.together -= 1
            self.closed += 1


@pytest.fixture
async def engine() -> AsyncIterator[Counting]:
    made = Counting()
    await made.load(CONFIG)
    yield made
    await made.close()


async def collect(engine: SerialEngine, request: GenerateRequest = REQUEST) -> list[Event]:
    return [event async for event in engine.generate(request)]


async def test_events_come_through_in_order(engine: Counting) -> None:
    assert engine.prepared
    assert [getattr(event, "text", event.type) for event in await collect(engine)] == [*"01234", "done"]
    status = engine.status()
    assert (status.active, status.queued, status.prompt_tokens_total, status.generated_tokens_total) == (0, 0, 2, 5)


async def test_requests_run_one_at_a_time_on_one_thread(engine: Counting) -> None:
    await asyncio.gather(*(collect(engine) for _ in range(8)))
    assert len(engine.threads) == 1
    assert engine.most_together == 1


async def test_an_exception_of_the_generator_reaches_the_caller_after_its_events(engine: Counting) -> None:
    events: list[Event] = []

    async def read() -> None:
        async for event in engine.generate(GenerateRequest(prompt="fail")):
            events.append(event)

    with pytest.raises(Unsupported):
        await read()
    assert len(events) == 5
    assert engine.closed == 1


async def test_a_slow_reader_holds_the_generator_back_and_leaving_stops_it() -> None:
    engine = Counting(limit=1_000_000)
    await engine.load(CONFIG)
    async with closing(engine.generate(REQUEST)) as events:
        await anext(events)
        assert engine.made <= AHEAD
        assert engine.status().active == 1
    await eventually(lambda: engine.closed == 1)
    assert engine.made <= AHEAD
    await eventually(lambda: engine.status().active == 0)
    await engine.close()


async def test_a_request_that_leaves_the_queue_never_runs(engine: Counting) -> None:
    engine.gate.clear()
    running = asyncio.create_task(collect(engine))
    await eventually(lambda: engine.status().active == 1)
    waiting = asyncio.create_task(collect(engine))
    await eventually(lambda: engine.status().queued == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert engine.status().queued == 0
    engine.gate.set()
    await running
    assert engine.closed == 1


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
