"""The waiting room: whose turn it is, and that asking costs the same however many wait."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import Busy
from ollmlx.settings import Settings
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.supervisor.scheduling.queue import AGEING, LEVELS, PendingRequest, PendingRequests
from ollmlx.testing.clock import HandClock, settle
from ollmlx.testing.toy_runners import ToyRunnerFactory, toy_launch
from ollmlx.types import Caller

Priority = Literal["high", "normal", "low"]
priorities = st.sampled_from(["high", "normal", "low"])


async def ticket(
    model: str = "a", client: str = "me", priority: Priority = "normal", arrived: float = 0.0, context: int = 4096
) -> PendingRequest[str]:
    launch = toy_launch(model, 1, context_length=context)
    return PendingRequest(launch, Caller(request_id="r", client=client, priority=priority), arrived)


async def room(*tickets: PendingRequest[str]) -> PendingRequests[str]:
    made: PendingRequests[str] = PendingRequests()
    for each in tickets:
        made.add(each)
    return made


async def test_the_first_of_every_client_comes_before_the_second_of_anybody() -> None:
    many = [await ticket(client="many", arrived=number) for number in range(3)]
    few = await ticket(client="few", arrived=9)
    filled = await room(*many, few)
    assert filled.order(10) == [many[0], few, *many[1:]]
    served = []
    while (one := filled.next("a", 10)) is not None:
        served.append(one)
        filled.remove(one, served=True)
    assert served == [many[0], few, *many[1:]]


async def test_a_model_that_many_keys_of_one_client_wait_before_is_loaded_in_its_turn() -> None:
    flood = [await ticket(model=f"m{number}", client="many", arrived=number) for number in range(4)]
    filled = await room(*flood, await ticket(model="mine", client="few", arrived=9))
    assert filled.keys(10) == ["m0", "mine", "m1", "m2", "m3"]


async def test_only_who_fits_is_next_and_the_longest_context_is_known() -> None:
    long, short = await ticket(context=8192), await ticket(arrived=1)
    filled = await room(long, short)
    assert filled.next("a", 2) is long
    assert filled.next("a", 2, lambda launch: launch.context_length <= 4096) is short
    assert filled.longest("a") is long.launch
    assert filled.since("a") == 0


async def test_one_that_has_waited_counts_as_a_better_priority() -> None:
    low, high = await ticket(client="l", priority="low"), await ticket(client="h", priority="high")
    filled = await room(low, high)
    assert (filled.level("a", 0), filled.next("a", 0)) == (LEVELS["high"], high)
    assert filled.next("a", 2 * AGEING) is low
    assert (filled.level("b", 0), filled.next("b", 0)) == (len(LEVELS), None)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), priorities, st.booleans()), max_size=40))
def test_whoever_comes_and_goes_the_counts_are_true(steps: list[tuple[str, str, Any, bool]]) -> None:
    async def run() -> None:
        filled: PendingRequests[str] = PendingRequests()
        inside: list[PendingRequest[str]] = []
        for now, (model, client, priority, comes) in enumerate(steps):
            if comes or not inside:
                inside.append(await ticket(model, client, priority, arrived=now))
                filled.add(inside[-1])
            else:
                gone = inside.pop(now % len(inside))
                filled.remove(gone, served=now % 2 == 0)
                filled.remove(gone)
            assert len(filled) == len(inside) == len(filled.order(now))
            assert set(filled.everyone()) == set(inside)
            assert set(filled.keys(now)) == {one.launch.key for one in inside}
            for key in "abc":
                those = [one for one in inside if one.launch.key == key]
                assert filled.waiting_for(key) == len(those)
                best = filled.next(key, now)
                assert (best in those) if those else best is None
                assert best is None or best.level(now) == filled.level(key, now)
        assert set(filled._turns) == {one.caller.client for one in inside}

    asyncio.run(run())


def calls(work: Callable[[], object]) -> int:
    """How many Python functions are called while it works."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # what a collection finds to finalise is not its work
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
            workshop=ToyRunnerFactory(clock),
        )
        await pool.start()
        launch, caller = toy_launch("a", 60), Caller(request_id="r")
        served = asyncio.create_task(pool._scheduler.seat(launch, caller))
        await settle()
        waiting = [asyncio.create_task(pool._scheduler.seat(launch, caller)) for _ in range(crowd - 1)]
        await settle()
        arrives, refused = pool._scheduler.seat(launch, caller), pool._scheduler.seat(launch, caller)

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
