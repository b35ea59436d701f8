"""A pool with a budget of 100 bytes, runners that are objects, and a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.unit.supervisor.toy_runners import HandClock, ToyRunner, ToyRunnerFactory, settle, toy_spec

from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Tuning
from ollmlx.supervisor.scheduling.pool import Lease, Pool
from ollmlx.types import Caller, Done, Event, GenerateRequest, RunnerState, Text

A, B = toy_spec("a", 60), toy_spec("b", 60)
REQUEST = GenerateRequest(prompt="hi")


def caller(client: str = "me", **fields: Any) -> Caller:
    return Caller(request_id="r", client=client, **fields)


def crashing(after: list[Event], times: int = 1) -> Any:
    """Let the first `times` runners crash after these events. Later ones answer `better`."""

    async def answer(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
        for event in after:
            yield event
        if runner.number <= times:
            raise runner.crash()
        yield Text(text="better")
        yield Done()

    return answer


class PoolHarness:
    """A pool, and requests that hold their lease until the test ends them."""

    def __init__(
        self, *, instant: bool = True, stop_seconds: float = 0.0, tuning: Tuning | None = None, **runners: Any
    ) -> None:
        self.clock = HandClock()
        self.factory = ToyRunnerFactory(self.clock, instant=instant, stop_seconds=stop_seconds)
        settings = Settings.model_validate({"runners": runners, "memory": {"limit": 100, "prompt_cache": 0}})
        self.pool = Pool(settings, clock=self.clock, factory=self.factory, tuning=tuning)
        self.tasks: list[asyncio.Task[None]] = []
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, tag: str, spec: Any = A, who: Caller | None = None, **fields: Any) -> asyncio.Task[None]:
        """Send a request that holds its lease until `end(tag)`."""
        self._ends[tag] = asyncio.Event()

        async def hold() -> None:
            async with self.pool.lease(spec, who or caller(), **fields):
                self.served.append(tag)
                await self._ends[tag].wait()

        task = asyncio.create_task(hold())
        self.tasks.append(task)
        await settle()
        return task

    async def end(self, *tags: str) -> None:
        for tag in tags:
            self._ends[tag].set()
        await settle()

    async def use(self, spec: Any = A, **fields: Any) -> Lease:
        """Send a request that ends at once."""
        async with self.pool.lease(spec, caller(), **fields) as lease:
            pass
        await settle()
        return lease

    async def events(self, spec: Any = A, **fields: Any) -> list[Event]:
        return [event async for event in self.pool.generate(spec, REQUEST, caller(), **fields)]

    def loaded(self) -> set[str]:
        return {info.model.name.short for info in self.pool.runners() if info.state is not RunnerState.FAILED}


Make = Callable[..., PoolHarness]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Build pools; close them when the test has ended, and check that no runner is left."""
    made: list[PoolHarness] = []

    def build(**fields: Any) -> PoolHarness:
        made.append(PoolHarness(**fields))
        return made[-1]

    yield build
    for each in made:
        for task in each.tasks:
            task.cancel()
        await asyncio.gather(*each.tasks, return_exceptions=True)
        closing = asyncio.create_task(each.pool.close(0))
        while not closing.done():
            await each.clock.advance(1)
        await closing
        assert not each.factory.running
