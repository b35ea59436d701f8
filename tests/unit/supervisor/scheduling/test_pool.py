"""The pool's promises, with runners that are objects and a clock moved by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ollmlx.errors import Busy, OllmlxError, OutOfMemory, RunnerFailed, RunnerUnavailable, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.supervisor.process.exit_status import Remedy
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool import Lease, Pool
from ollmlx.supervisor.tuning import Tuning
from ollmlx.testing.clock import HandClock, settle
from ollmlx.testing.toy_runners import ToyRunner, ToyRunnerFactory, death, toy_launch
from ollmlx.types import (
    Admitted,
    Caller,
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    Prefill,
    RunnerState,
    Text,
)

A, B = toy_launch("a", 60), toy_launch("b", 60)
HI = GenerateRequest(prompt="hi")


def caller(client: str = "me", **fields: Any) -> Caller:
    return Caller(request_id="r", client=client, **fields)


class House:
    """A pool with a budget of 100 bytes, and requests that hold their lease until told otherwise."""

    def __init__(
        self, *, instant: bool = True, stop_seconds: float = 0.0, tuning: Tuning | None = None, **runners: Any
    ) -> None:
        self.clock = HandClock()
        self.workshop = ToyRunnerFactory(self.clock, instant=instant, stop_seconds=stop_seconds)
        memory = {"limit": 100, "prompt_cache": 0}
        settings = Settings.model_validate({"runners": runners, "memory": memory})
        self.pool = Pool(settings, clock=self.clock, workshop=self.workshop, tuning=tuning)
        self.tasks: list[asyncio.Task[None]] = []
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(
        self, tag: str, launch: LaunchSpec = A, who: Caller | None = None, **fields: Any
    ) -> asyncio.Task[None]:
        """A request that holds its lease until `end(tag)`."""
        self._ends[tag] = asyncio.Event()

        async def hold() -> None:
            async with self.pool.lease(launch, who or caller(), **fields):
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

    async def use(self, launch: LaunchSpec = A, **fields: Any) -> Lease:
        """A request that is done at once."""
        async with self.pool.lease(launch, caller(), **fields) as lease:
            pass
        await settle()
        return lease

    async def events(self, launch: LaunchSpec = A, **fields: Any) -> list[Event]:
        return [event async for event in self.pool.generate(launch, HI, caller(), **fields)]

    def loaded(self) -> set[str]:
        return {info.model.name.short for info in self.pool.runners() if info.state is not RunnerState.FAILED}


Open = Callable[..., House]


@pytest.fixture
async def house() -> AsyncIterator[Open]:
    houses: list[House] = []

    def build(**fields: Any) -> House:
        houses.append(House(**fields))
        return houses[-1]

    yield build
    for each in houses:
        for task in each.tasks:
            task.cancel()
        await asyncio.gather(*each.tasks, return_exceptions=True)
        closing = asyncio.create_task(each.pool.close(0))
        while not closing.done():
            await each.clock.advance(1)
        await closing
        assert not each.workshop.living


# -- loading and sharing --------------------------------------------------------------------------------------------


async def test_requests_for_one_model_share_one_load(house: Open) -> None:
    home = house(instant=False)
    for tag in "xyz":
        await home.ask(tag, toy_launch("a", 60, parallel=4))
    assert len(home.workshop.made) == 1
    assert home.served == []
    home.workshop.made[0].finish_loading()
    await settle()
    assert home.served == ["x", "y", "z"]
    assert home.pool.runners()[0].active == 3


async def test_a_runner_serves_no_more_at_once_than_it_can(house: Open) -> None:
    home = house()
    for tag in "xyz":
        await home.ask(tag, toy_launch("a", 60, parallel=2))
    assert home.served == ["x", "y"]
    assert [entry.position for entry in home.pool.queue()] == [1]
    await home.end("x")
    assert home.served == ["x", "y", "z"]


async def test_the_lease_tells_waiting_from_loading(house: Open) -> None:
    home = house(instant=False)
    asked = asyncio.create_task(home.use())
    await settle()
    await home.clock.advance(3)
    home.workshop.made[0].finish_loading()
    lease = await asked
    assert (lease.queue_ns, lease.load_ns) == (0, 3_000_000_000)
    second = await home.use()
    assert (second.queue_ns, second.load_ns) == (0, 0)


async def test_a_hot_model_is_served_while_another_one_loads(house: Open) -> None:
    home = house(instant=False)
    small = toy_launch("small", 10)
    first = await home.ask("first", small)
    home.workshop.made[0].finish_loading()
    await home.end("first")
    await first
    await home.ask("slow", toy_launch("other", 60))
    await home.ask("hot", small)
    assert home.served == ["first", "hot"]


async def test_a_longer_context_reloads_and_a_shorter_one_does_not(house: Open) -> None:
    home = house()
    await home.use(toy_launch("a", 10, context_length=4096))
    await home.use(toy_launch("a", 10, context_length=2048))
    assert len(home.workshop.made) == 1
    await home.use(toy_launch("a", 20, context_length=8192))
    assert [made.launch.context_length for made in home.workshop.made] == [4096, 8192]
    assert len(home.workshop.living) == 1


# -- keep_alive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launch", "keep_alive", "after", "stays"),
    [
        (A, None, 299, True),
        (A, None, 301, False),
        (A, 0.0, 0, False),
        (A, 10.0, 9, True),
        (A, 10.0, 11, False),
        (A, math.inf, 1e9, True),
        (toy_launch("a", 60, keep_alive=5.0), None, 6, False),
        (toy_launch("a", 60, pin=True), 0.0, 1e9, True),
    ],
)
async def test_a_model_stays_as_long_as_keep_alive_says(
    house: Open, launch: LaunchSpec, keep_alive: float | None, after: float, stays: bool
) -> None:
    home = house()
    await home.use(launch, keep_alive=keep_alive)
    await home.clock.advance(after)
    assert bool(home.loaded()) is stays


async def test_keep_alive_counts_from_the_last_request(house: Open) -> None:
    home = house()
    await home.use(keep_alive=10.0)
    await home.clock.advance(8)
    await home.use(keep_alive=10.0)
    await home.clock.advance(8)
    assert home.loaded() == {"a"}
    expires = home.pool.runners()[0].expires_at
    assert expires is not None
    assert (expires - home.clock.now()).total_seconds() == pytest.approx(2)


async def test_a_request_that_says_nothing_leaves_keep_alive_as_it_was_asked_for(house: Open) -> None:
    home = house()
    await home.use(keep_alive=math.inf)
    await home.use()
    await home.clock.advance(1e9)
    assert home.loaded() == {"a"}
    await home.use(keep_alive=0.0)
    assert home.loaded() == set()
    await home.use()
    await home.clock.advance(301)
    assert home.loaded() == set(), "what was asked of one runner is not asked of the next"


async def test_the_time_to_live_is_told_while_loading_in_use_and_leaving(house: Open) -> None:
    home = house(instant=False, stop_seconds=2.0)

    def left() -> float:
        (info,) = home.pool.runners()
        assert info.expires_at is not None
        return (info.expires_at - home.clock.now()).total_seconds()

    await home.ask("a")
    assert left() == 300, "while loading"
    home.workshop.made[0].finish_loading()
    await home.clock.advance(7)
    assert left() == 300, "in use"
    await home.pool.unload("a", wait=False)
    assert left() == 0, "as soon as its request is done"
    await home.end("a")
    assert (left(), home.pool.runners()[0].state) == (0, RunnerState.STOPPING)


async def test_a_model_in_use_does_not_expire(house: Open) -> None:
    home = house()
    await home.ask("long", keep_alive=1.0)
    await home.clock.advance(1000)
    assert home.loaded() == {"a"}


# -- making room ----------------------------------------------------------------------------------------------------


async def test_an_idle_model_makes_room(house: Open) -> None:
    home = house(stop_seconds=2.0)
    await home.use(A)
    await home.ask("b", B)
    assert len(home.workshop.made) == 1, "b must not start before a's memory is free"
    await home.clock.advance(2)
    assert home.served == ["b"]
    assert home.loaded() == {"b"}


async def test_a_model_in_use_is_waited_for(house: Open) -> None:
    home = house()
    await home.ask("x", A)
    await home.ask("y", B)
    await home.clock.advance(60)
    assert home.served == ["x"]
    await home.end("x")
    assert home.served == ["x", "y"]


async def test_requests_for_the_loaded_model_pass_a_swap_for_a_bounded_time(house: Open) -> None:
    home = house(tuning=Tuning(swap_wait=5))
    await home.ask("a1", A)
    await home.ask("b1", B)
    await home.ask("a2", A)
    await home.end("a1")
    assert home.served == ["a1", "a2"], "a2 passes b1: that spares two loads"
    await home.clock.advance(6)
    await home.ask("a3", A)
    await home.end("a2")
    assert home.served == ["a1", "a2", "b1"], "b1 has waited long enough"
    await home.end("b1")
    await home.clock.advance(6)
    assert home.served[-1] == "a3"


async def test_a_pinned_model_never_makes_room(house: Open) -> None:
    home = house()
    await home.use(toy_launch("a", 60, pin=True))
    with pytest.raises(
        OutOfMemory,
        match=r"b:latest needs 60 B, but the memory budget is 100 B with 60 B in use by a:latest \(60 B, pinned\)",
    ):
        await home.use(B)
    assert home.loaded() == {"a"}


async def test_a_pinned_name_for_weights_that_are_loaded_already_pins_them(house: Open) -> None:
    home = house()
    await home.use(toy_launch("a", 60))
    await home.use(toy_launch("a", 60, pin=True))
    await home.use(toy_launch("a", 60))
    with pytest.raises(OutOfMemory, match="in use by a"):
        await home.use(B)
    assert home.loaded() == {"a"}


async def test_what_can_never_fit_is_refused_at_once_and_evicts_nobody(house: Open) -> None:
    home = house()
    await home.use(A)
    with pytest.raises(OutOfMemory, match="whale:latest needs 200 B, but the memory budget is 100 B"):
        await home.use(toy_launch("whale", 200))
    assert home.loaded() == {"a"}


async def test_no_more_models_are_loaded_than_the_settings_allow(house: Open) -> None:
    home = house(max_loaded_models=1, stop_seconds=1.0)
    await home.use(toy_launch("a", 1))
    asked = asyncio.create_task(home.use(toy_launch("b", 1)))
    await settle()
    assert len(home.workshop.living) == 1
    await home.clock.advance(1)
    await asked
    assert home.loaded() == {"b"}


async def test_a_model_that_was_told_to_go_counts_until_its_process_is_gone(house: Open) -> None:
    home = house(max_loaded_models=1, stop_seconds=1.0)
    await home.use(toy_launch("a", 1))
    await home.pool.unload("a", wait=False)  # nobody's victim: it goes for a reason of its own
    await settle()
    asked = asyncio.create_task(home.use(toy_launch("b", 1)))
    await settle()
    assert [runner.launch.key for runner in home.workshop.living] == ["a"]
    await home.clock.advance(1)
    await asked
    assert home.loaded() == {"b"}


async def test_memory_that_ran_out_while_loading_evicts_the_idle_and_tries_once_more(house: Open) -> None:
    home = house(instant=False)
    small, other = toy_launch("small", 10), toy_launch("other", 10)
    asked = asyncio.create_task(home.use(small))
    await settle()
    home.workshop.made[0].finish_loading()
    await asked
    again = asyncio.create_task(home.use(other))
    await settle()
    home.workshop.made[1].fail_loading(death(Cause.EXIT, Remedy.MAKE_ROOM, loading=True))
    await home.clock.advance(1)
    assert home.workshop.made[0] not in home.workshop.living
    home.workshop.made[2].finish_loading()
    await again
    assert home.loaded() == {"other"}


# -- the queue ------------------------------------------------------------------------------------------------------


async def test_a_full_queue_answers_with_ollamas_words(house: Open) -> None:
    home = house(max_queue=2)
    for tag in ("served", "first", "second"):
        await home.ask(tag)
    with pytest.raises(Busy) as refused:
        await home.use()
    assert refused.value.message == "server busy, please try again.  maximum pending requests exceeded"
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    assert len(home.pool.queue()) == 2


@pytest.mark.fault(41)
async def test_a_full_queue_refuses_nothing_that_a_free_runner_serves_at_once(house: Open) -> None:
    home = house(max_queue=1)
    await home.ask("idle", toy_launch("b", 10))
    await home.end("idle")
    for tag in ("served", "waits"):
        await home.ask(tag)
    with pytest.raises(Busy):
        await home.use()
    await home.ask("free", toy_launch("b", 10))
    await home.end("free")
    assert "free" in home.served


async def test_clients_take_turns(house: Open) -> None:
    home = house()
    await home.ask("now")
    for tag in ("m1", "m2", "m3"):
        await home.ask(tag, who=caller("many"))
    await home.ask("f1", who=caller("few"))
    for tag in ("now", "m1", "f1", "m2"):
        await home.end(tag)
    assert home.served == ["now", "m1", "f1", "m2", "m3"]


async def test_priority_goes_first_and_low_is_never_starved(house: Open) -> None:
    home = house()
    await home.ask("now")
    await home.ask("low", who=caller("l", priority="low"))
    await home.ask("normal", who=caller("n"))
    await home.ask("high", who=caller("h", priority="high"))
    await home.end("now", "high")
    assert home.served == ["now", "high", "normal"]
    await home.clock.advance(61)  # low has aged to the top by now
    await home.ask("late", who=caller("h2", priority="high"))
    await home.end("normal")
    assert home.served[-1] == "low"


async def test_when_to_come_again_is_reckoned_from_what_requests_take(house: Open) -> None:
    home = house(max_queue=2)
    await home.ask("first")
    await home.clock.advance(40)
    await home.end("first")
    for tag in "xyz":
        await home.ask(tag)
    with pytest.raises(Busy) as refused:
        await home.use()
    assert refused.value.retry_after == 80, "two wait, 40 s each: the first request counts for more than a guess"


async def test_a_client_that_leaves_the_queue_is_forgotten(house: Open) -> None:
    home = house()
    await home.ask("now")
    waiting = await home.ask("gone")
    waiting.cancel()
    await settle()
    assert home.pool.queue() == []
    await home.end("now")
    assert home.served == ["now"]


@pytest.mark.fault(40)
async def test_clients_that_leave_together_leave_no_slot_taken(house: Open) -> None:
    home = house()
    served, waiting = await home.ask("served"), await home.ask("waiting")
    stays = await home.ask("stays")
    served.cancel()
    waiting.cancel()
    await settle()
    assert [info.active for info in home.pool.runners()] == [1]
    assert home.served == ["served", "stays"]
    assert not stays.done()
    assert [each.cancelled() for each in (served, waiting)] == [True, True]


async def test_a_load_that_nobody_waits_for_is_given_up(house: Open) -> None:
    home = house(instant=False)
    waiting = await home.ask("gone")
    assert len(home.workshop.living) == 1
    waiting.cancel()
    await settle()
    assert not home.workshop.living
    assert home.pool.runners() == []


async def test_a_load_that_outlasts_its_request_goes_on_for_the_next_one(house: Open) -> None:
    home = house(instant=False)
    launch = toy_launch("a", 60, request_timeout=7.0)
    asked = asyncio.create_task(home.events(launch))
    await home.clock.advance(8)
    with pytest.raises(Timeout, match=r"a:latest is still being loaded after 7s: \[runners\] request_timeout"):
        await asked
    (runner,) = home.workshop.made
    assert runner.loading
    again = asyncio.create_task(home.events(launch))
    await home.clock.advance(5)
    runner.finish_loading()
    assert (await again)[-1].type == "done"
    assert home.workshop.made == [runner]


async def test_what_is_loaded_and_asked_for_no_more_goes_like_any_other(house: Open) -> None:
    home = house(instant=False)
    asked = asyncio.create_task(home.events(toy_launch("a", 60, request_timeout=7.0)))
    await home.clock.advance(8)
    asked.exception()
    home.workshop.made[0].finish_loading()
    await home.clock.advance(1)
    assert home.loaded() == {"a"}
    await home.clock.advance(301)
    assert home.loaded() == set()


async def test_a_request_that_waits_too_long_ends_with_a_timeout(house: Open) -> None:
    home = house()
    await home.ask("now")
    asked = asyncio.create_task(home.events(toy_launch("a", 60, request_timeout=7.0)))
    await home.clock.advance(8)
    with pytest.raises(Timeout, match=r"no runner for a:latest within 7s"):
        await asked


# -- answers and failures -------------------------------------------------------------------------------------------


async def test_whoever_only_loads_or_counts_waits_no_longer_than_any_request(house: Open) -> None:
    home = house()
    launch = toy_launch("a", 60, request_timeout=3.0)
    await home.ask("holder", A)
    loads = asyncio.create_task(home.use(launch))
    counts = asyncio.create_task(home.pool.tokenize(launch, TokenizeRequest(text="x"), caller()))
    patient = asyncio.create_task(home.use(launch, deadline=math.inf))
    await home.clock.advance(4)
    for asked in (loads, counts):
        with pytest.raises(Timeout, match=r"no runner for a:latest within 3s: \[runners\] request_timeout"):
            await asked
    await home.end("holder")
    await patient


async def test_an_answer_is_framed_by_admitted_and_done(house: Open) -> None:
    home = house(instant=False)
    asked = asyncio.create_task(home.events())
    await home.clock.advance(2)
    home.workshop.made[0].finish_loading()
    events = await asked
    assert [event.type for event in events] == ["admitted", "text", "done"]
    admitted, done = events[0], events[-1]
    assert isinstance(admitted, Admitted)
    assert isinstance(done, Done)
    assert admitted.load_ns == done.load_ns == 2_000_000_000
    assert done.total_ns == 2_000_000_000


def dying(after: list[Event], times: int = 1) -> Any:
    """Runners that die after these events; the first `times` of them."""

    async def answer(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
        for event in after:
            yield event
        if len(runner._workshop.made) <= times:
            runner.die()
            raise death().error(runner.launch.name)
        yield Text(text="better")
        yield Done()

    return answer


@pytest.mark.parametrize("before", [[], [Prefill(done=1, total=2)]])
async def test_a_runner_that_dies_before_it_said_anything_is_replaced_once(house: Open, before: list[Event]) -> None:
    home = house()
    home.workshop.answer = dying(before)
    events = await home.events()
    assert [event for event in events if isinstance(event, Text)] == [Text(text="better")]
    assert sum(isinstance(event, Admitted) for event in events) == 1
    assert len(home.workshop.made) == 2
    assert home.pool.runners()[0].restarts == 1


async def test_after_the_first_word_or_twice_in_a_row_it_is_an_error(house: Open) -> None:
    home = house()
    home.workshop.answer = dying([Text(text="once")])
    heard: list[Event] = []

    async def listen() -> None:
        async for event in home.pool.generate(A, HI, caller()):
            heard.append(event)

    with pytest.raises(RunnerFailed, match="the runner of a:latest was killed by SIGSEGV"):
        await listen()
    assert [event.type for event in heard] == ["admitted", "text"]
    home = house()
    home.workshop.answer = dying([], times=9)
    with pytest.raises(RunnerFailed, match="SIGSEGV"):
        await home.events()
    assert len(home.workshop.made) == 2


async def test_a_failed_load_fails_everybody_who_waited_for_it_and_is_not_repeated_for_them(house: Open) -> None:
    home = house(instant=False)
    asked = [asyncio.create_task(home.events()) for _ in range(3)]
    await settle()
    home.workshop.made[0].fail_loading()
    for task in asked:
        with pytest.raises(RunnerFailed, match="while loading"):
            await task
    assert len(home.workshop.made) == 1
    shown = home.pool.runners()
    assert [info.state for info in shown] == [RunnerState.FAILED]
    assert shown[0].last_error is not None


async def test_a_crash_loop_opens_the_circuit_until_it_is_reset(house: Open) -> None:
    home = house(tuning=Tuning(restart_limit=3, restart_pause=600))
    home.workshop.answer = dying([Text(text="x")], times=99)
    for _ in range(3):
        asked = asyncio.create_task(home.events())
        await home.clock.advance(70)
        with pytest.raises(RunnerFailed):
            await asked
    with pytest.raises(RunnerUnavailable, match=r"failed 3 times within 5m.*Last cause.*SIGSEGV") as refused:
        await home.events()
    assert len(home.workshop.made) == 3
    assert 0 < (refused.value.retry_after or 0) <= 600
    home.workshop.answer = dying([])
    assert home.pool.reset("a:latest")
    assert (await home.events())[-1].type == "done"


async def test_a_circuit_that_stays_open_for_ever_says_so_and_holds_nobody_else_up(house: Open) -> None:
    home = house(tuning=Tuning(restart_limit=1, restart_pause=math.inf, restart_window=math.inf))
    home.workshop.answer = dying([Text(text="x")], times=1)
    with pytest.raises(RunnerFailed):
        await home.events()
    for _ in range(2):
        with pytest.raises(RunnerUnavailable, match=r"a:latest failed 1 time; it is not tried again\. Last") as refused:
            await home.events()
        assert refused.value.retry_after == math.inf
    assert (await home.events(toy_launch("b", 10)))[-1].type == "done"
    assert home.pool.reset("a")
    assert (await home.events())[-1].type == "done"


async def test_what_repeating_cannot_cure_is_answered_at_once(house: Open) -> None:
    home = house(instant=False)
    asked = asyncio.create_task(home.events())
    await settle()
    home.workshop.made[0].fail_loading(death(Cause.EXIT, Remedy.NONE, loading=True))
    with pytest.raises(RunnerFailed):
        await asked
    with pytest.raises(RunnerFailed):
        await home.events()
    assert len(home.workshop.made) == 1


async def test_a_pinned_model_comes_back_by_itself(house: Open) -> None:
    home = house()
    pinned = toy_launch("a", 60, pin=True)
    await home.use(pinned)
    home.workshop.made[0].die()
    await home.clock.advance(1)
    assert home.loaded() == {"a"}
    assert len(home.workshop.made) == 2


async def test_a_runner_above_its_soft_limit_gets_no_new_requests(house: Open) -> None:
    home = house()
    await home.use()
    runner = home.workshop.made[0]
    runner.throttled = True
    await home.ask("waits")
    assert home.served == []
    runner.throttled = False
    runner.on_change()
    await settle()
    assert home.served == ["waits"]


async def test_a_bloated_runner_is_replaced(house: Open) -> None:
    home = house()
    await home.use()
    home.workshop.made[0].bloated = True
    home.workshop.made[0].on_change()
    await settle()
    assert home.loaded() == set()


async def test_a_pinned_one_that_is_bloated_is_replaced_at_once(house: Open) -> None:
    home = house(stop_seconds=1.0)
    await home.use(toy_launch("a", 60, pin=True))
    home.workshop.made[0].bloated = True
    home.workshop.made[0].on_change()
    await home.clock.advance(2)
    assert [(made.state, made.bloated) for made in home.workshop.made] == [
        (RunnerState.STOPPING, True),
        (RunnerState.READY, False),
    ]


async def test_a_machine_without_descriptors_is_a_passing_trouble(house: Open) -> None:
    home = house()

    async def start(self: ToyRunner) -> None:
        raise OSError(24, "Too many open files")

    original, ToyRunner.start = ToyRunner.start, start  # type: ignore[method-assign]
    try:
        with pytest.raises(RunnerUnavailable, match="Too many open files"):
            await home.use()
    finally:
        ToyRunner.start = original  # type: ignore[method-assign]
    await home.use()


async def test_counting_tokens_survives_one_death(house: Open) -> None:
    home = house()
    await home.use()
    first = home.workshop.made[0]

    async def dies(*_: object) -> Tokens:
        first.die()
        assert first.death is not None
        raise first.death.error("a")

    first.tokenize = dies  # type: ignore[assignment]
    assert (await home.pool.tokenize(A, TokenizeRequest(text="x"), caller())).tokens == (1,)
    assert len(home.workshop.made) == 2


async def test_embedding_survives_one_death(house: Open) -> None:
    home = house()
    await home.use()
    runner = home.workshop.made[0]

    async def fall(request: EmbedRequest, exchange: object = None) -> EmbedResult:
        runner.die()
        raise death().error("a:latest")

    runner.embed = fall  # type: ignore[method-assign]
    result = await home.pool.embed(A, EmbedRequest(inputs=("x",)), caller())
    assert result.embeddings == ((1.0,),)
    assert len(home.workshop.made) == 2


# -- unloading and closing ------------------------------------------------------------------------------------------


async def test_unloading_lets_running_requests_finish(house: Open) -> None:
    home = house()
    await home.ask("long")
    gone = asyncio.create_task(home.pool.unload("a"))
    await settle()
    assert home.loaded() == {"a"}
    await home.ask("next")
    await home.end("long")
    assert await gone
    assert home.workshop.made[0].working_when_stopped == 0
    assert home.served == ["long", "next"]
    assert len(home.workshop.made) == 2


async def test_unloading_what_is_not_loaded_says_so(house: Open) -> None:
    assert not await house().pool.unload("a")


async def test_closing_refuses_drains_and_ends_the_rest_with_an_error(house: Open) -> None:
    home = house()

    async def endless(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
        yield Text(text="1")
        await runner.aborted()

    home.workshop.answer = endless
    running = asyncio.create_task(home.events())
    await settle()
    waiting = asyncio.create_task(home.events())
    await settle()
    closing = asyncio.create_task(home.pool.close(10))
    await settle()
    assert home.pool.draining
    for refused in (waiting, asyncio.create_task(home.events(B))):
        with pytest.raises(Busy, match="shutting down"):
            await refused
    assert not running.done()
    await home.clock.advance(11)
    with pytest.raises(Busy, match="shutting down"):
        await running
    await closing
    assert home.workshop.state == "closed"


# -- what listeners hear --------------------------------------------------------------------------------------------


class Notes(PoolObserver):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        self.heard.append(("load", model, outcome))

    def on_evict(self, model: str, reason: str) -> None:
        self.heard.append(("evict", model, reason))

    def on_restart(self, model: str, cause: str) -> None:
        self.heard.append(("restart", model, cause))

    def on_reject(self, model: str, reason: str) -> None:
        self.heard.append(("reject", model, reason))

    def on_cancel(self, model: str, phase: str) -> None:
        self.heard.append(("cancel", model, phase))

    def on_retry(self, model: str) -> None:
        self.heard.append(("retry", model))


async def test_listeners_hear_what_happens(house: Open) -> None:
    home = house()
    notes = Notes()
    home.pool.subscribe(notes)
    home.workshop.answer = dying([])
    await home.events()
    await home.use(B)
    with pytest.raises(OllmlxError):
        await home.use(toy_launch("whale", 200))
    running = await home.ask("run", B)
    queued = await home.ask("queue", B)
    for task in (queued, running):
        task.cancel()
        await settle()
    assert notes.heard == [
        ("load", "a:latest", "ok"),
        ("restart", "a:latest", "SIGSEGV"),
        ("retry", "a:latest"),
        ("load", "a:latest", "ok"),
        ("evict", "a:latest", "memory"),
        ("load", "b:latest", "ok"),
        ("reject", "whale:latest", "memory"),
        ("cancel", "b:latest", "queued"),
        ("cancel", "b:latest", "running"),
    ]
