"""The pool: answers, failures, restarts, unloading and observers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from unittest.mock import ANY, Mock, call

import pytest
from tests.unit.supervisor.toy_runners import ToyRunner, settle, toy_failure, toy_spec

from ollmlx.errors import Busy, OllmlxError, RunnerFailed, RunnerUnavailable, Timeout
from ollmlx.protocol import TokenizeRequest
from ollmlx.supervisor.runner.failure import Cause, Remedy
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.restart import LONGEST_PAUSE
from ollmlx.types import (
    Admitted,
    Done,
    EmbedRequest,
    Event,
    GenerateRequest,
    Prefill,
    RunnerState,
    Text,
)

from .conftest import REQUEST, A, B, Make, caller, crashing

# -- answers and failures -------------------------------------------------------------------------------------------


async def test_loading_and_counting_tokens_obey_the_request_timeout(make: Make) -> None:
    harness = make()
    spec = toy_spec("a", 60, request_timeout=3.0)
    await harness.ask("holder", A)
    loads = asyncio.create_task(harness.use(spec))
    counts = asyncio.create_task(harness.pool.tokenize(spec, TokenizeRequest(text="x"), caller()))
    patient = asyncio.create_task(harness.use(spec, deadline=math.inf))
    await harness.clock.advance(4)
    for asked in (loads, counts):
        with pytest.raises(Timeout, match=r"no runner for a:latest within 3s: \[runners\] request_timeout"):
            await asked
    await harness.end("holder")
    await patient


async def test_an_answer_begins_with_admitted_and_ends_with_done(make: Make) -> None:
    harness = make(instant=False)
    asked = asyncio.create_task(harness.events())
    await harness.clock.advance(2)
    harness.factory.made[0].finish_loading()
    events = await asked
    assert [event.type for event in events] == ["admitted", "text", "done"]
    admitted, done = events[0], events[-1]
    assert isinstance(admitted, Admitted)
    assert isinstance(done, Done)
    assert admitted.load_ns == done.load_ns == 2_000_000_000
    assert done.total_ns == 2_000_000_000


@pytest.mark.parametrize("before", [[], [Prefill(done=1, total=2)]])
async def test_a_runner_that_exits_before_the_first_word_is_replaced_once(make: Make, before: list[Event]) -> None:
    harness = make()
    harness.factory.answer = crashing(before)
    events = await harness.events()
    assert [event for event in events if isinstance(event, Text)] == [Text(text="better")]
    assert sum(isinstance(event, Admitted) for event in events) == 1
    assert len(harness.factory.made) == 2
    assert harness.pool.runners()[0].restarts == 1


async def test_an_exit_after_the_first_word_or_twice_in_a_row_is_an_error(make: Make) -> None:
    harness = make()
    harness.factory.answer = crashing([Text(text="once")])
    heard: list[Event] = []

    async def listen() -> None:
        async for event in harness.pool.generate(A, REQUEST, caller()):
            heard.append(event)

    with pytest.raises(RunnerFailed, match="the runner of a:latest was killed by SIGSEGV"):
        await listen()
    assert [event.type for event in heard] == ["admitted", "text"]
    harness = make()
    harness.factory.answer = crashing([], times=9)
    with pytest.raises(RunnerFailed, match="SIGSEGV"):
        await harness.events()
    assert len(harness.factory.made) == 2


async def test_a_failed_load_fails_every_request_that_waited_for_it_and_is_not_repeated(make: Make) -> None:
    harness = make(instant=False)
    asked = [asyncio.create_task(harness.events()) for _ in range(3)]
    await settle()
    harness.factory.made[0].fail_loading()
    for task in asked:
        with pytest.raises(RunnerFailed, match="while loading"):
            await task
    assert len(harness.factory.made) == 1
    shown = harness.pool.runners()
    assert [info.state for info in shown] == [RunnerState.FAILED]
    assert shown[0].last_error is not None


async def test_a_crash_loop_is_refused_for_seconds_and_holds_no_other_model_up(make: Make) -> None:
    harness = make()
    harness.factory.answer = crashing([], times=999)
    for match in (
        "the runner of a:latest was killed by SIGSEGV",
        r"failed 3 times .* again in 1s\. Last cause.*SIGSEGV",
    ):
        request = asyncio.create_task(harness.events())
        await harness.clock.advance(0.5)
        with pytest.raises(RunnerFailed, match=match):
            await request
    assert len(harness.factory.made) == 3
    with pytest.raises(RunnerUnavailable) as refused:
        await harness.events()
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 1
    harness.factory.answer = crashing([], times=0)
    assert (await harness.events(toy_spec("b", 10)))[-1].type == "done"
    await harness.clock.advance(1)
    assert (await harness.events())[-1].type == "done"


async def test_a_failure_that_no_repetition_cures_is_not_loaded_again_until_it_is_unloaded(make: Make) -> None:
    harness = make(instant=False)
    for remedy in (Remedy.NONE, Remedy.RETRY):
        asked = asyncio.create_task(harness.events())
        await settle()
        harness.factory.made[-1].fail_loading(toy_failure(Cause.EXIT, remedy, loading=True))
        with pytest.raises(RunnerFailed):
            await asked
        if remedy is Remedy.NONE:
            with pytest.raises(RunnerFailed):
                await harness.events()
        assert not await harness.pool.unload("a"), "it is not loaded"
    assert len(harness.factory.made) == 2


@pytest.mark.fault(12)
@pytest.mark.parametrize("active", [True, False], ids=["while answering", "while idle"])
async def test_a_runner_that_has_answered_is_replaced_however_often_it_exits(make: Make, active: bool) -> None:
    harness = make()
    for number in range(1, 8):
        harness.factory.answer = crashing([Text(text="x")], times=number if active else 0)
        request = asyncio.create_task(harness.events())
        await harness.clock.advance(LONGEST_PAUSE)
        if active:
            with pytest.raises(RunnerFailed):
                await request
        else:
            assert (await request)[-1].type == "done"
            harness.factory.made[-1].crash()
        assert len(harness.factory.made) == number
    harness.factory.answer = crashing([], times=0)
    request = asyncio.create_task(harness.events())
    await harness.clock.advance(LONGEST_PAUSE)
    assert (await request)[-1].type == "done"


async def test_a_pinned_model_is_loaded_again_without_a_request(make: Make) -> None:
    harness = make()
    pinned = toy_spec("a", 60, pin=True)
    await harness.use(pinned)
    harness.factory.made[0].crash()
    await harness.clock.advance(1)
    assert harness.loaded() == {"a"}
    assert len(harness.factory.made) == 2


async def test_a_runner_above_its_soft_limit_gets_no_new_requests(make: Make) -> None:
    harness = make()
    await harness.use()
    runner = harness.factory.made[0]
    runner.throttled = True
    await harness.ask("waits")
    assert harness.served == []
    runner.throttled = False
    runner.on_change()
    await settle()
    assert harness.served == ["waits"]


@pytest.mark.parametrize(("pin", "after"), [(False, []), (True, [(RunnerState.READY, False)])], ids=["idle", "pinned"])
async def test_a_runner_that_uses_too_much_memory_is_stopped_and_replaced_if_it_is_pinned(
    make: Make, pin: bool, after: list[tuple[RunnerState, bool]]
) -> None:
    harness = make(stop_seconds=1.0)
    await harness.use(toy_spec("a", 60, pin=pin))
    harness.factory.made[0].needs_replacement = True
    harness.factory.made[0].on_change()
    await harness.clock.advance(2)
    states = [(made.state, made.needs_replacement) for made in harness.factory.made]
    assert states == [(RunnerState.STOPPING, True), *after]


async def test_a_lack_of_descriptors_fails_only_the_requests_that_meet_it(make: Make) -> None:
    harness = make()
    harness.factory.start_error = OSError(24, "Too many open files")
    with pytest.raises(RunnerUnavailable, match="Too many open files"):
        await harness.use()
    harness.factory.start_error = None
    await harness.use()


async def test_vectors_and_token_counts_survive_one_exit(make: Make) -> None:
    harness = make()
    harness.factory.crashes = 1
    assert (await harness.pool.tokenize(A, TokenizeRequest(text="x"), caller())).tokens == (1,)
    assert len(harness.factory.made) == 2
    harness.factory.crashes = 3
    await harness.pool.unload("a")
    result = await harness.pool.embed(A, EmbedRequest(inputs=("x",)), caller())
    assert result.embeddings == ((1.0,),)
    assert len(harness.factory.made) == 4


# -- unloading and closing ------------------------------------------------------------------------------------------


async def test_unloading_lets_running_requests_finish(make: Make) -> None:
    harness = make()
    await harness.ask("long")
    unloaded = asyncio.create_task(harness.pool.unload("a"))
    await settle()
    assert harness.loaded() == {"a"}
    await harness.ask("next")
    await harness.end("long")
    assert await unloaded
    assert harness.factory.made[0].active_when_stopped == 0
    assert harness.served == ["long", "next"]
    assert len(harness.factory.made) == 2


async def test_closing_refuses_drains_and_ends_the_rest_with_an_error(make: Make) -> None:
    harness = make()

    async def endless(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
        yield Text(text="1")
        await runner.aborted()

    harness.factory.answer = endless
    running = asyncio.create_task(harness.events())
    await settle()
    waiting = asyncio.create_task(harness.events())
    await settle()
    closing = asyncio.create_task(harness.pool.close(10))
    await settle()
    for refused in (waiting, asyncio.create_task(harness.events(B))):
        with pytest.raises(Busy, match="shutting down"):
            await refused
    assert not running.done()
    await harness.clock.advance(11)
    with pytest.raises(Busy, match="shutting down"):
        await running
    await closing
    assert harness.factory.state == "closed"


# -- observers --------------------------------------------------------------------------------------------


async def test_observers_are_called_for_every_event(make: Make) -> None:
    harness = make()
    recorder = Mock(spec=PoolObserver)
    harness.pool.subscribe(recorder)
    harness.factory.answer = crashing([])
    await harness.events()
    await harness.use(B)
    with pytest.raises(OllmlxError):
        await harness.use(toy_spec("whale", 200))
    running = await harness.ask("run", B)
    queued = await harness.ask("queue", B)
    for task in (queued, running):
        task.cancel()
        await settle()
    assert [event for event in recorder.mock_calls if event[0] not in ("on_queue", "on_admit")] == [
        call.on_load("a:latest", "toy", ANY, "ok"),
        call.on_restart("a:latest", "SIGSEGV"),
        call.on_retry("a:latest"),
        call.on_load("a:latest", "toy", ANY, "ok"),
        call.on_evict("a:latest", "memory"),
        call.on_load("b:latest", "toy", ANY, "ok"),
        call.on_reject("whale:latest", "memory"),
        call.on_cancel("b:latest", "queued"),
        call.on_cancel("b:latest", "running"),
    ]
