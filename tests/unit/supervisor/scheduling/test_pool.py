"""The pool: loading, sharing, keep-alive, eviction and the queue."""

from __future__ import annotations

import asyncio
import math

import pytest
from tests.unit.supervisor.toy_runners import settle, toy_failure, toy_spec

from ollmlx.errors import Busy, OutOfMemory, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.supervisor.clock import Tuning
from ollmlx.supervisor.runner.failure import Cause, Remedy
from ollmlx.types import RunnerState

from .conftest import A, B, Make, caller

# -- loading and sharing --------------------------------------------------------------------------------------------


async def test_requests_for_one_model_share_one_load(make: Make) -> None:
    harness = make(instant=False)
    for tag in "xyz":
        await harness.ask(tag, toy_spec("a", 60, parallel=4))
    assert len(harness.factory.made) == 1
    assert harness.served == []
    harness.factory.made[0].finish_loading()
    await settle()
    assert harness.served == ["x", "y", "z"]
    assert harness.pool.runners()[0].active == 3


async def test_a_runner_serves_no_more_at_once_than_it_can(make: Make) -> None:
    harness = make()
    for tag in "xyz":
        await harness.ask(tag, toy_spec("a", 60, parallel=2))
    assert harness.served == ["x", "y"]
    assert [entry.position for entry in harness.pool.queue()] == [1]
    await harness.end("x")
    assert harness.served == ["x", "y", "z"]


async def test_a_lease_separates_the_time_in_the_queue_from_the_load(make: Make) -> None:
    harness = make(instant=False)
    asked = asyncio.create_task(harness.use())
    await settle()
    await harness.clock.advance(3)
    harness.factory.made[0].finish_loading()
    lease = await asked
    assert (lease.queue_ns, lease.load_ns) == (0, 3_000_000_000)
    second = await harness.use()
    assert (second.queue_ns, second.load_ns) == (0, 0)


async def test_a_loaded_model_is_served_while_another_one_loads(make: Make) -> None:
    harness = make(instant=False)
    small = toy_spec("small", 10)
    first = await harness.ask("first", small)
    harness.factory.made[0].finish_loading()
    await harness.end("first")
    await first
    await harness.ask("slow", toy_spec("other", 60))
    await harness.ask("hot", small)
    assert harness.served == ["first", "hot"]


async def test_a_longer_context_reloads_and_a_shorter_one_does_not(make: Make) -> None:
    harness = make()
    await harness.use(toy_spec("a", 10, context_length=4096))
    await harness.use(toy_spec("a", 10, context_length=2048))
    assert len(harness.factory.made) == 1
    await harness.use(toy_spec("a", 20, context_length=8192))
    assert [made.spec.context_length for made in harness.factory.made] == [4096, 8192]
    assert len(harness.factory.running) == 1


# -- keep_alive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "keep_alive", "after", "stays"),
    [
        (A, None, 299, True),
        (A, None, 301, False),
        (A, 0.0, 0, False),
        (A, 10.0, 9, True),
        (A, 10.0, 11, False),
        (A, math.inf, 1e9, True),
        (toy_spec("a", 60, keep_alive=5.0), None, 6, False),
        (toy_spec("a", 60, pin=True), 0.0, 1e9, True),
    ],
)
async def test_a_model_stays_as_long_as_keep_alive_says(
    make: Make, spec: LaunchSpec, keep_alive: float | None, after: float, stays: bool
) -> None:
    harness = make()
    await harness.use(spec, keep_alive=keep_alive)
    await harness.clock.advance(after)
    assert bool(harness.loaded()) is stays


async def test_keep_alive_counts_from_the_last_request(make: Make) -> None:
    harness = make()
    await harness.use(keep_alive=10.0)
    await harness.clock.advance(8)
    await harness.use(keep_alive=10.0)
    await harness.clock.advance(8)
    assert harness.loaded() == {"a"}
    expires = harness.pool.runners()[0].expires_at
    assert expires is not None
    assert (expires - harness.clock.now()).total_seconds() == pytest.approx(2)


async def test_an_explicit_keep_alive_persists_for_requests_without_one(make: Make) -> None:
    harness = make()
    await harness.use(keep_alive=math.inf)
    await harness.use()
    await harness.clock.advance(1e9)
    assert harness.loaded() == {"a"}
    await harness.use(keep_alive=0.0)
    assert harness.loaded() == set()
    await harness.use()
    await harness.clock.advance(301)
    assert harness.loaded() == set(), "a new runner has the default"


async def test_the_expiry_is_shown_while_loading_in_use_and_stopping(make: Make) -> None:
    harness = make(instant=False, stop_seconds=2.0)

    def left() -> float:
        (info,) = harness.pool.runners()
        assert info.expires_at is not None
        return (info.expires_at - harness.clock.now()).total_seconds()

    await harness.ask("a")
    assert left() == 300, "while loading"
    harness.factory.made[0].finish_loading()
    await harness.clock.advance(7)
    assert left() == 300, "in use"
    await harness.pool.unload("a", wait=False)
    assert left() == 0, "when its request is done"
    await harness.end("a")
    assert (left(), harness.pool.runners()[0].state) == (0, RunnerState.STOPPING)


# -- making room ----------------------------------------------------------------------------------------------------


async def test_an_idle_model_makes_room(make: Make) -> None:
    harness = make(stop_seconds=2.0)
    await harness.use(A)
    await harness.ask("b", B)
    assert len(harness.factory.made) == 1, "b must not start before a's memory is free"
    await harness.clock.advance(2)
    assert harness.served == ["b"]
    assert harness.loaded() == {"b"}


async def test_a_model_in_use_is_waited_for(make: Make) -> None:
    harness = make()
    await harness.ask("x", A)
    await harness.ask("y", B)
    await harness.clock.advance(60)
    assert harness.served == ["x"]
    await harness.end("x")
    assert harness.served == ["x", "y"]


async def test_requests_for_the_loaded_model_pass_a_swap_for_a_bounded_time(make: Make) -> None:
    harness = make(tuning=Tuning(swap_wait=5))
    await harness.ask("a1", A)
    await harness.ask("b1", B)
    await harness.ask("a2", A)
    await harness.end("a1")
    assert harness.served == ["a1", "a2"], "a2 passes b1: that spares two loads"
    await harness.clock.advance(6)
    await harness.ask("a3", A)
    await harness.end("a2")
    assert harness.served == ["a1", "a2", "b1"], "b1 has waited long enough"
    await harness.end("b1")
    await harness.clock.advance(6)
    assert harness.served[-1] == "a3"


@pytest.mark.parametrize("loaded_before", [False, True], ids=["pinned from the start", "under another name before"])
async def test_a_pinned_model_never_makes_room(make: Make, loaded_before: bool) -> None:
    harness = make()
    if loaded_before:
        await harness.use(A)
    await harness.use(toy_spec("a", 60, pin=True))
    with pytest.raises(
        OutOfMemory,
        match=r"b:latest needs 60 B, but the memory budget is 100 B with 60 B in use by a:latest \(60 B, pinned\)",
    ):
        await harness.use(B)
    assert harness.loaded() == {"a"}


async def test_a_model_that_can_never_fit_is_refused_at_once_and_evicts_no_other(make: Make) -> None:
    harness = make()
    await harness.use(A)
    with pytest.raises(OutOfMemory, match="whale:latest needs 200 B, but the memory budget is 100 B"):
        await harness.use(toy_spec("whale", 200))
    assert harness.loaded() == {"a"}


@pytest.mark.parametrize("unloaded", [False, True], ids=["evicted", "being unloaded"])
async def test_no_more_models_are_loaded_than_the_settings_allow(make: Make, unloaded: bool) -> None:
    harness = make(max_loaded_models=1, stop_seconds=1.0)
    await harness.use(toy_spec("a", 1))
    if unloaded:
        await harness.pool.unload("a", wait=False)
    asked = asyncio.create_task(harness.use(toy_spec("b", 1)))
    await settle()
    assert [runner.spec.key for runner in harness.factory.running] == ["a"]
    await harness.clock.advance(1)
    await asked
    assert harness.loaded() == {"b"}


async def test_memory_that_ran_out_while_loading_evicts_the_idle_and_tries_once_more(make: Make) -> None:
    harness = make(instant=False)
    small, other = toy_spec("small", 10), toy_spec("other", 10)
    asked = asyncio.create_task(harness.use(small))
    await settle()
    harness.factory.made[0].finish_loading()
    await asked
    again = asyncio.create_task(harness.use(other))
    await settle()
    harness.factory.made[1].fail_loading(toy_failure(Cause.EXIT, Remedy.MAKE_ROOM, loading=True))
    await harness.clock.advance(1)
    assert harness.factory.made[0] not in harness.factory.running
    harness.factory.made[2].finish_loading()
    await again
    assert harness.loaded() == {"other"}


# -- the queue ------------------------------------------------------------------------------------------------------


@pytest.mark.fault(41)
async def test_a_full_queue_refuses_no_request_that_a_free_runner_can_serve(make: Make) -> None:
    harness = make(max_queue=1)
    free = toy_spec("b", 10)
    await harness.use(free)
    for tag in ("served", "waits"):
        await harness.ask(tag)
    with pytest.raises(Busy):
        await harness.use()
    await harness.ask("free", free)
    assert harness.served == ["served", "free"]


async def test_clients_take_turns(make: Make) -> None:
    harness = make()
    await harness.ask("now")
    for tag in ("m1", "m2", "m3"):
        await harness.ask(tag, who=caller("many"))
    await harness.ask("f1", who=caller("few"))
    for tag in ("now", "m1", "f1", "m2"):
        await harness.end(tag)
    assert harness.served == ["now", "m1", "f1", "m2", "m3"]


async def test_priority_goes_first_and_low_is_never_starved(make: Make) -> None:
    harness = make()
    await harness.ask("now")
    await harness.ask("low", who=caller("l", priority="low"))
    await harness.ask("normal", who=caller("n"))
    await harness.ask("high", who=caller("h", priority="high"))
    await harness.end("now", "high")
    assert harness.served == ["now", "high", "normal"]
    await harness.clock.advance(61)  # low has aged to the top by now
    await harness.ask("late", who=caller("h2", priority="high"))
    await harness.end("normal")
    assert harness.served[-1] == "low"


async def test_a_full_queue_answers_with_ollamas_words_and_how_long_requests_take(make: Make) -> None:
    harness = make(max_queue=2)
    await harness.ask("first")
    await harness.clock.advance(40)
    await harness.end("first")
    for tag in "xyz":
        await harness.ask(tag)
    with pytest.raises(Busy) as refused:
        await harness.use()
    assert refused.value.message == "server busy, please try again.  maximum pending requests exceeded"
    assert refused.value.retry_after == 80, "two wait, 40 s each: the first request counts for more than a guess"


@pytest.mark.fault(40)
async def test_clients_that_disconnect_together_leave_no_slot_taken(make: Make) -> None:
    harness = make()
    served, waiting = await harness.ask("served"), await harness.ask("waiting")
    stays = await harness.ask("stays")
    served.cancel()
    waiting.cancel()
    await settle()
    assert [info.active for info in harness.pool.runners()] == [1]
    assert harness.served == ["served", "stays"]
    assert not stays.done()
    assert [each.cancelled() for each in (served, waiting)] == [True, True]


async def test_a_load_without_requests_is_cancelled(make: Make) -> None:
    harness = make(instant=False)
    waiting = await harness.ask("gone")
    assert len(harness.factory.running) == 1
    waiting.cancel()
    await settle()
    assert not harness.factory.running
    assert harness.pool.runners() == []


async def test_a_load_that_outlasts_its_request_goes_on_for_the_next_one(make: Make) -> None:
    harness = make(instant=False)
    spec = toy_spec("a", 60, request_timeout=7.0)
    asked = asyncio.create_task(harness.events(spec))
    await harness.clock.advance(8)
    with pytest.raises(Timeout, match=r"a:latest is still being loaded after 7s: \[runners\] request_timeout"):
        await asked
    (runner,) = harness.factory.made
    assert runner.loading
    again = asyncio.create_task(harness.events(spec))
    await harness.clock.advance(5)
    runner.finish_loading()
    assert (await again)[-1].type == "done"
    assert harness.factory.made == [runner]
    await harness.clock.advance(301)
    assert harness.loaded() == set(), "it expires like any other"


async def test_a_request_that_waits_too_long_ends_with_a_timeout(make: Make) -> None:
    harness = make()
    await harness.ask("now", keep_alive=1.0)
    asked = asyncio.create_task(harness.events(toy_spec("a", 60, request_timeout=7.0)))
    await harness.clock.advance(8)
    with pytest.raises(Timeout, match=r"no runner for a:latest within 7s"):
        await asked
    assert (harness.pool.queue(), harness.loaded()) == ([], {"a"}), "a model in use does not expire"
