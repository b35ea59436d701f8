"""The pool under random sequences of events: its invariants hold in every order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.supervisor.toy_runners import HandClock, ToyRunner, ToyRunnerFactory, settle, toy_failure, toy_spec

from ollmlx.errors import OllmlxError
from ollmlx.settings import Settings
from ollmlx.supervisor.runner.failure import Cause, Remedy
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.types import Caller, RunnerState

BUDGET = 100
SPECS = [
    toy_spec("small", 20, parallel=2),
    toy_spec("small", 30, context_length=8192, parallel=2),
    toy_spec("middle", 45),
    toy_spec("large", 90, keep_alive=2.0),
    toy_spec("tiny", 5),
    toy_spec("whale", 101),
]
PINNED = toy_spec("pinned", 10, pin=True)


class HeldRequest:
    """One request: waits, and holds its lease until `finish` is set."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.runner: ToyRunner | None = None
        self.task: asyncio.Task[None]


class EvictionRecorder(PoolObserver):
    """The evictions: model and reason."""

    def __init__(self) -> None:
        self.reasons: set[tuple[str, str]] = set()

    def on_evict(self, model: str, reason: str) -> None:
        self.reasons.add((model, reason))


class PoolMachine(RuleBasedStateMachine):
    """Rules are the actions of clients, processes and time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.requests: list[HeldRequest] = []
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(work)

    def happen(self, *steps: Callable[[], object]) -> None:
        """Run the steps on the event loop of the pool."""

        async def inside() -> None:
            for step in steps:
                step()
            await settle()

        self.do(inside())

    async def _open(self) -> None:
        self.clock = HandClock()
        self.factory = ToyRunnerFactory(self.clock, instant=False, stop_seconds=1.0)
        memory = {"limit": BUDGET, "prompt_cache": 0}
        runners = {"max_queue": 6, "max_loaded_models": 3}
        self.pool = Pool(
            Settings.model_validate({"memory": memory, "runners": runners}),
            clock=self.clock,
            factory=self.factory,
        )
        self.evicted = EvictionRecorder()
        self.pool.subscribe(self.evicted)
        await self.pool.start()

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(
        spec=st.sampled_from([*SPECS, PINNED]),
        client=st.sampled_from(["one", "two"]),
        priority=st.sampled_from(["high", "normal", "low"]),
        keep_alive=st.sampled_from([None, 0.0, 3.0]),
    )
    def request(
        self, spec: Any, client: str, priority: Literal["high", "normal", "low"], keep_alive: float | None
    ) -> None:
        pending = HeldRequest()

        async def hold() -> None:
            caller = Caller(request_id="r", client=client, priority=priority)
            try:
                async with self.pool.lease(spec, caller, keep_alive) as lease:
                    assert isinstance(lease.runner, ToyRunner)
                    assert lease.runner.spec.context_length >= spec.context_length
                    pending.runner = lease.runner
                    await pending.finish.wait()
            except OllmlxError:
                return
            finally:
                pending.runner = None

        async def begin() -> None:
            pending.task = asyncio.create_task(hold())
            await settle()

        self.do(begin())
        self.requests.append(pending)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        self.happen(data.draw(st.sampled_from(self.requests)).finish.set)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def disconnect(self, data: Any) -> None:
        self.happen(data.draw(st.sampled_from(self.requests)).task.cancel)

    @precondition(lambda self: self.loading())
    @rule(data=st.data(), remedy=st.sampled_from([None, None, None, *Remedy]))
    def end_loading(self, data: Any, remedy: Remedy | None) -> None:
        runner = data.draw(st.sampled_from(self.loading()))
        if remedy is None:
            self.happen(runner.finish_loading)
        else:
            self.happen(lambda: runner.fail_loading(toy_failure(Cause.EXIT, remedy, loading=True)))

    @precondition(lambda self: self.ready())
    @rule(data=st.data(), remedy=st.sampled_from(list(Remedy)))
    def crash(self, data: Any, remedy: Remedy) -> None:
        runner = data.draw(st.sampled_from(self.ready()))
        self.happen(lambda: runner.crash(toy_failure(Cause.EXIT, remedy)))

    @precondition(lambda self: self.ready())
    @rule(data=st.data(), throttled=st.booleans())
    def use_much_memory(self, data: Any, throttled: bool) -> None:
        runner = data.draw(st.sampled_from(self.ready()))
        runner.throttled = throttled
        runner.needs_replacement = throttled and not runner.active_requests
        self.happen(runner.on_change)

    @rule(seconds=st.sampled_from([0.5, 1.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.clock.advance(seconds))

    @rule(key=st.sampled_from(["small", "middle", "large", "pinned"]))
    def unload(self, key: str) -> None:
        self.do(self.pool.unload(key, wait=False))
        self.do(settle())

    # -- invariants -------------------------------------------------------------------------------------------

    @invariant()
    def never_above_the_budget(self) -> None:
        assert sum(runner.allowance.reserved for runner in self.factory.running) <= BUDGET

    @invariant()
    def the_ledger_is_the_sum_of_what_is_shown(self) -> None:
        shown = {info.id: info.reserved for info in self.pool.runners() if info.reserved}
        assert self.pool._runners.ledger.sizes == shown
        assert {runner.id for runner in self.factory.running} <= set(shown)

    @invariant()
    def never_two_runners_of_one_model(self) -> None:
        keys = [runner.spec.key for runner in self.factory.running]
        assert len(keys) == len(set(keys))
        assert len(keys) <= 3

    @invariant()
    def no_runner_is_stopped_in_use(self) -> None:
        assert all(not runner.active_when_stopped for runner in self.factory.made)

    @invariant()
    def no_pinned_runner_is_evicted_for_another(self) -> None:
        reasons = {reason for model, reason in self.evicted.reasons if model == PINNED.name}
        assert reasons <= {"asked", "spent"}

    @invariant()
    def leases_are_counted_and_bounded(self) -> None:
        for runner in self.factory.running:
            holders = sum(request.runner is runner for request in self.requests)
            assert holders == runner.active_requests <= runner.parallel

    @invariant()
    def the_queue_stays_within_its_limit(self) -> None:
        assert len(self.pool.queue()) <= 6

    @invariant()
    def scheduling_again_changes_nothing(self) -> None:
        def state() -> object:
            shown = [(info.id, info.state, info.active) for info in self.pool.runners()]
            return shown, self.pool.queue(), len(self.factory.made)

        before = state()
        self.happen(self.pool._scheduler.schedule)
        assert state() == before

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.do(self._every_request_ends())
            self.do(self._close())
            assert not self.factory.running
            assert self.pool._runners.ledger.in_use == 0
        finally:
            self.do(self._cancel())
            self.loop.close()

    async def _every_request_ends(self) -> None:
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
        return [runner for runner in self.factory.made if runner in self.factory.running and runner.loading]

    def ready(self) -> list[ToyRunner]:
        return [
            runner
            for runner in self.factory.made
            if runner in self.factory.running and runner.state is RunnerState.READY
        ]


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    max_examples=15,
    stateful_step_count=30,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
