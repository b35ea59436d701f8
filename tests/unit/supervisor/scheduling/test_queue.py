"""The queue: which request is next, and that each operation costs the same in any crowd."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.supervisor.toy_runners import HandClock, ToyRunnerFactory, settle, toy_spec

from ollmlx.errors import Busy
from ollmlx.settings import Settings
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.supervisor.scheduling.queue import PendingRequest, PendingRequests
from ollmlx.types import Caller

Priority = Literal["high", "normal", "low"]
priorities = st.sampled_from(["high", "normal", "low"])


async def pending(
    model: str = "a", client: str = "me", priority: Priority = "normal", arrived: float = 0.0, context: int = 4096
) -> PendingRequest:
    spec = toy_spec(model, 1, context_length=context)
    return PendingRequest(spec, Caller(request_id="r", client=client, priority=priority), arrived)


async def queue_of(*requests: PendingRequest) -> PendingRequests:
    made = PendingRequests()
    for each in requests:
        made.add(each)
    return made


async def test_a_client_that_asks_for_many_models_does_not_delay_the_model_of_another() -> None:
    flood = [await pending(model=f"m{number}", client="many", arrived=number) for number in range(4)]
    queue = await queue_of(*flood, await pending(model="mine", client="few", arrived=9))
    assert queue.keys(10) == ["m0", "mine", "m1", "m2", "m3"]


async def test_only_a_spec_that_fits_is_next_and_the_longest_context_is_known() -> None:
    long, short = await pending(context=8192), await pending(arrived=1)
    queue = await queue_of(long, short)
    assert queue.next("a", 2) is long
    assert queue.next("a", 2, lambda spec: spec.context_length <= 4096) is short
    assert queue.longest("a") is long.spec
    assert queue.since("a") == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), priorities, st.booleans()), max_size=40))
def test_the_counts_are_true_after_any_arrivals_and_departures(steps: list[tuple[str, str, Any, bool]]) -> None:
    async def run() -> None:
        queue = PendingRequests()
        inside: list[PendingRequest] = []
        for now, (model, client, priority, comes) in enumerate(steps):
            if comes or not inside:
                inside.append(await pending(model, client, priority, arrived=now))
                queue.add(inside[-1])
            else:
                gone = inside.pop(now % len(inside))
                queue.remove(gone, served=now % 2 == 0)
                queue.remove(gone)
            assert len(queue) == len(inside) == len(queue.describe(now))
            assert set(queue.all()) == set(inside)
            assert set(queue.keys(now)) == {one.spec.key for one in inside}
            for key in "abc":
                those = [one for one in inside if one.spec.key == key]
                assert queue.count(key) == len(those)
                best = queue.next(key, now)
                assert (best in those) if those else best is None
                assert best is None or best.level(now) == queue.level(key, now)

    asyncio.run(run())


def calls(work: Callable[[], object]) -> int:
    """Return how many Python functions are called."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # finalisers are not counted
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


async def test_a_refusal_an_arrival_and_a_departure_cost_the_same_in_any_crowd() -> None:
    async def costs(crowd: int) -> list[int]:
        clock = HandClock()
        pool = Pool(
            Settings.model_validate({"memory": {"limit": 100}, "runners": {"max_queue": crowd}}),
            clock=clock,
            factory=ToyRunnerFactory(clock),
        )
        await pool.start()
        spec, caller = toy_spec("a", 60), Caller(request_id="r")
        served = asyncio.create_task(pool._scheduler.acquire(spec, caller))
        await settle()
        waiting = [asyncio.create_task(pool._scheduler.acquire(spec, caller)) for _ in range(crowd - 1)]
        await settle()
        arrives, refused = pool._scheduler.acquire(spec, caller), pool._scheduler.acquire(spec, caller)

        def refuse() -> None:
            try:
                refused.send(None)
            except Busy:
                return
            raise AssertionError("it was not refused")

        found = [calls(lambda: arrives.send(None)), calls(refuse), calls(arrives.close)]
        for task in waiting:
            task.cancel()
        await settle()
        pool._scheduler.release(served.result(), 0)
        await pool.close(0)
        return found

    assert await costs(200) == await costs(20)
