"""The pool as a state machine: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollmlx.errors import OllmlxError
from ollmlx.settings import Settings
from ollmlx.supervisor.process.exit_status import Remedy
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.supervisor.tuning import Tuning
from ollmlx.testing.clock import HandClock, settle
from ollmlx.testing.toy_runners import ToyRunner, ToyRunnerFactory, death, toy_launch
from ollmlx.types import Caller, RunnerState

BUDGET = 100
LAUNCHES = [
    toy_launch("small", 20, parallel=2),
    toy_launch("small", 30, context_length=8192, parallel=2),
    toy_launch("middle", 45),
    toy_launch("large", 90, keep_alive=2.0),
    toy_launch("tiny", 5),
    toy_launch("whale", 101),
]
PINNED = toy_launch("pinned", 10, pin=True)


class Request:
    """One client: waits, holds its lease, and is told when to finish."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.runner: ToyRunner | None = None
        self.task: asyncio.Task[None]


class Evicted(PoolObserver):
    """Why runners of which models were let go."""

    def __init__(self) -> None:
        self.reasons: set[tuple[str, str]] = set()

    def on_evict(self, model: str, reason: str) -> None:
        self.reasons.add((model, reason))


class PoolMachine(RuleBasedStateMachine):
    """Rules are what clients, processes and time do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.requests: list[Request] = []
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(work)

    def happen(self, *steps: Callable[[], object]) -> None:
        """What processes and clients do reaches the pool on its event loop."""

        async def inside() -> None:
            for step in steps:
                step()
            await settle()

        self.do(inside())

    async def _open(self) -> None:
        self.clock = HandClock()
        self.workshop = ToyRunnerFactory(self.clock, instant=False, stop_seconds=1.0)
        memory = {"limit": BUDGET, "prompt_cache": 0}
        runners = {"max_queue": 6, "max_loaded_models": 3}
        self.pool = Pool(
            Settings.model_validate({"memory": memory, "runners": runners}),
            clock=self.clock,
            workshop=self.workshop,
            tuning=Tuning(restart_pause=20),
        )
        self.pool._fleet.circuits.rng = random.Random(0)
        self.evicted = Evicted()
        self.pool.subscribe(self.evicted)
        await self.pool.start()

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(
        launch=st.sampled_from([*LAUNCHES, PINNED]),
        client=st.sampled_from(["one", "two"]),
        priority=st.sampled_from(["high", "normal", "low"]),
        keep_alive=st.sampled_from([None, 0.0, 3.0]),
    )
    def arrive(
        self, launch: Any, client: str, priority: Literal["high", "normal", "low"], keep_alive: float | None
    ) -> None:
        request = Request()

        async def live() -> None:
            caller = Caller(request_id="r", client=client, priority=priority)
            try:
                async with self.pool.lease(launch, caller, keep_alive) as lease:
                    assert isinstance(lease.runner, ToyRunner)
                    assert lease.runner.launch.context_length >= launch.context_length
                    request.runner = lease.runner
                    await request.finish.wait()
            except OllmlxError:
                return
            finally:
                request.runner = None

        async def begin() -> None:
            request.task = asyncio.create_task(live())
            await settle()

        self.do(begin())
        self.requests.append(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        self.happen(data.draw(st.sampled_from(self.requests)).finish.set)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        self.happen(data.draw(st.sampled_from(self.requests)).task.cancel)

    @precondition(lambda self: self.loading())
    @rule(data=st.data(), remedy=st.sampled_from([None, None, None, *Remedy]))
    def end_loading(self, data: Any, remedy: Remedy | None) -> None:
        runner = data.draw(st.sampled_from(self.loading()))
        if remedy is None:
            self.happen(runner.finish_loading)
        else:
            self.happen(lambda: runner.fail_loading(death(Cause.EXIT, remedy, loading=True)))

    @precondition(lambda self: self.ready())
    @rule(data=st.data(), remedy=st.sampled_from(list(Remedy)))
    def die(self, data: Any, remedy: Remedy) -> None:
        runner = data.draw(st.sampled_from(self.ready()))
        self.happen(lambda: runner.die(death(Cause.EXIT, remedy)))

    @precondition(lambda self: self.ready())
    @rule(data=st.data(), throttled=st.booleans())
    def swell(self, data: Any, throttled: bool) -> None:
        runner = data.draw(st.sampled_from(self.ready()))
        runner.throttled = throttled
        runner.bloated = throttled and not runner.working
        self.happen(runner.on_change)

    @rule(seconds=st.sampled_from([0.5, 1.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.clock.advance(seconds))

    @rule(key=st.sampled_from(["small", "middle", "large", "pinned"]))
    def unload(self, key: str) -> None:
        self.do(self.pool.unload(key, wait=False))
        self.do(settle())

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def never_above_the_budget(self) -> None:
        assert sum(runner.allowance.reserved for runner in self.workshop.living) <= BUDGET

    @invariant()
    def the_ledger_is_the_sum_of_what_is_shown(self) -> None:
        shown = {info.id: info.reserved for info in self.pool.runners() if info.reserved}
        ledger = self.pool._fleet.ledger
        assert {owner: ledger.amount(owner) for owner in ledger._entries} == shown
        assert {runner.id for runner in self.workshop.living} <= set(shown)

    @invariant()
    def never_two_runners_of_one_model(self) -> None:
        keys = [runner.launch.key for runner in self.workshop.living]
        assert len(keys) == len(set(keys))
        assert len(keys) <= 3

    @invariant()
    def never_ended_in_use(self) -> None:
        assert all(not runner.working_when_stopped for runner in self.workshop.made)

    @invariant()
    def never_a_pinned_one_made_room(self) -> None:
        reasons = {reason for model, reason in self.evicted.reasons if model == PINNED.name}
        assert reasons <= {"asked", "bloated"}

    @invariant()
    def leases_are_counted_and_bounded(self) -> None:
        for runner in self.workshop.living:
            holders = sum(request.runner is runner for request in self.requests)
            assert holders == runner.working <= runner.parallel

    @invariant()
    def nobody_waits_while_the_queue_is_over_its_limit(self) -> None:
        assert len(self.pool.queue()) <= 6

    @invariant()
    def nothing_that_could_be_done_is_left_undone(self) -> None:
        def state() -> object:
            shown = [(info.id, info.state, info.active) for info in self.pool.runners()]
            return shown, self.pool.queue(), len(self.workshop.made)

        before = state()
        self.happen(self.pool._scheduler.pump)
        assert state() == before

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.do(self._every_waiter_ends())
            self.do(self._close())
            assert not self.workshop.living
            assert self.pool._fleet.ledger.in_use == 0
        finally:
            self.do(self._cancel())
            self.loop.close()

    async def _every_waiter_ends(self) -> None:
        for request in self.requests:
            request.finish.set()
        for _ in range(60):
            if all(request.task.done() for request in self.requests):
                break
            for runner in self.ready():
                runner.throttled = False
                runner.on_change()
            for runner in self.loading():
                runner.finish_loading()
            await self.clock.advance(5)
        assert all(request.task.done() for request in self.requests)
        for request in self.requests:
            if not request.task.cancelled():
                request.task.result()

    async def _close(self) -> None:
        closing = asyncio.create_task(self.pool.close(1))
        for _ in range(20):
            await self.clock.advance(1)
        assert closing.done()
        await closing

    async def _cancel(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def loading(self) -> list[ToyRunner]:
        return [runner for runner in self.workshop.made if runner in self.workshop.living and runner.loading]

    def ready(self) -> list[ToyRunner]:
        return [
            runner
            for runner in self.workshop.made
            if runner in self.workshop.living and runner.state is RunnerState.READY
        ]


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=15,
    stateful_step_count=30,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
