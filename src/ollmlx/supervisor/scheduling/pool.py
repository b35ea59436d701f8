"""The pool: one runner for each model, shared by requests, under one memory budget. What the service talks to."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ollmlx.errors import Busy, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.model.events import closing
from ollmlx.protocol import TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Clock, SystemClock
from ollmlx.supervisor.runner.client import Exchange
from ollmlx.supervisor.runner.factory import PooledRunner, ProcessRunnerFactory, RunnerFactory
from ollmlx.supervisor.runner.failure import RunnerDied
from ollmlx.supervisor.scheduling.budget import Machine, ThisMachine, find_budget
from ollmlx.supervisor.scheduling.circuits import Circuits
from ollmlx.supervisor.scheduling.memory import Ledger
from ollmlx.supervisor.scheduling.observer import PoolObserver, PoolObservers
from ollmlx.supervisor.scheduling.pool_entry import Place
from ollmlx.supervisor.scheduling.runner_set import RunnerSet
from ollmlx.supervisor.scheduling.scheduler import Scheduler, Waiting
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_duration
from ollmlx.types import (
    Admitted,
    Caller,
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    Prefill,
    RunnerInfo,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
STOP_MARGIN = 5.0
"""Seconds beyond `stop_timeout` after which `close` no longer waits for a process that cannot even be killed."""


@dataclass(eq=False, slots=True)
class Lease:
    """The right of one request to use a runner. Times in nanoseconds; `load_ns` is 0 when it was loaded."""

    runner: PooledRunner
    queue_ns: int
    load_ns: int
    place: Place
    completed: bool = False
    """The request ended well; leaving before that is leaving early."""


class Pool:
    """Made where its event loop will run, started and closed once. All methods are for the event loop's thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        workshop: RunnerFactory | None = None,
        machine: Machine | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._tuning = tuning = tuning or Tuning()
        self._clock = clock or SystemClock()
        self._workshop = workshop or ProcessRunnerFactory(settings, self._clock, tuning)
        found = find_budget(settings.memory, machine or ThisMachine())
        self.budget = found.size
        """Bytes for all models together."""
        self.budget_reason = found.reason
        self._listeners = PoolObservers()
        self._fleet = RunnerSet(
            settings, tuning, self._clock, self._workshop, Ledger(self.budget), Circuits(tuning), self._listeners
        )
        self._scheduler = Scheduler(settings.runners, tuning, self._clock, self._fleet, self._listeners)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the state folder, end leftovers of an earlier daemon, start the guardian.

        Raises Conflict when another daemon has the folder, StorageError when it cannot be used.
        """
        await self._workshop.open()

    @property
    def draining(self) -> bool:
        """No new work is taken."""
        return self._scheduler.draining

    async def close(self, drain: float) -> None:
        """Refuse new work, let running requests finish for `drain` seconds, end the rest with an error, stop all."""
        self._scheduler.drain()
        for place in list(self._fleet.places.values()):
            if not place.settled:
                self._fleet.let_go(place, "drain")
        await self._idle(drain)
        for place in list(self._fleet.places.values()):
            if place.runner is not None and place.leases:
                place.runner.abort(Busy("the server is shutting down", retry_after=5))
        places = list(self._fleet.places.values())
        for place in places:
            self._fleet.let_go(place, "drain")
        ends = [asyncio.ensure_future(place.gone.wait()) for place in places]
        if ends:
            await asyncio.wait(ends, timeout=self._tuning.stop_timeout + STOP_MARGIN)
        for end, place in zip(ends, places, strict=True):
            if not end.done():
                logger.error("%s does not end", place.id)
                end.cancel()
        await self._workshop.close()

    # -- requests ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(
        self,
        launch: LaunchSpec,
        caller: Caller,
        keep_alive: float | None = None,
        *,
        deadline: float | None = None,
        again: bool = False,
    ) -> AsyncIterator[Lease]:
        """Load the model if needed, and hold a slot of its runner.

        `keep_alive` in seconds; None: as somebody asked before, else as launched. Raises Busy, OutOfMemory, Timeout (at
        `deadline`, monotonic; None: by the launch), RunnerFailed and its kinds. `again`: a retry.
        """
        arrived = self._clock.monotonic()
        if deadline is None:
            deadline = arrived + launch.request_timeout
        place = await self._scheduler.seat(launch, caller, deadline, again=again)
        assert place.runner is not None
        place.stay(keep_alive, launch.keep_alive)
        taken = self._clock.monotonic()
        loading = max(0.0, min(taken, place.ready_at) - max(arrived, place.began))
        waited = taken - arrived
        self._listeners.on_admit(launch.name, waited, loading)
        lease = Lease(place.runner, _ns(waited - loading), _ns(loading), place)
        logger.debug("%s serves the request: waited %.3f s, %d slots taken", place.id, waited, place.leases)
        try:
            yield lease
        except (asyncio.CancelledError, GeneratorExit):
            if not lease.completed:
                self._listeners.on_cancel(launch.name, "running")
            raise
        finally:
            self._scheduler.release(place, taken)
            logger.debug("%s is done with the request after %.3f s", place.id, self._clock.monotonic() - taken)

    async def generate(
        self, launch: LaunchSpec, request: GenerateRequest, caller: Caller, keep_alive: float | None = None
    ) -> AsyncIterator[Event]:
        """`Admitted`, the runner's events, `Done`. A runner that dies before it said anything is replaced once.

        Raises OllmlxError for every other end. `Admitted` comes with the first event, so that what fails early is
        raised before anything was sent.
        """
        began = self._clock.monotonic()
        deadline = began + launch.request_timeout
        told = spoken = False
        for attempt in (1, 2):
            try:
                async with self.lease(launch, caller, keep_alive, deadline=deadline, again=attempt > 1) as lease:
                    with self._timed(launch, deadline) as exchange:
                        async with closing(lease.runner.generate(request, exchange)) as events:
                            async for event in events:
                                if not told:
                                    told = True
                                    yield Admitted(
                                        queue_ns=lease.queue_ns, load_ns=lease.load_ns, runner=lease.place.id
                                    )
                                spoken = spoken or not isinstance(event, Prefill)
                                if isinstance(event, Done):
                                    event = self._over(lease, event, began)
                                yield event
                return
            except RunnerDied as died:
                if spoken or attempt > 1 or not died.fresh:
                    raise
                self._retry(launch, died)

    async def embed(
        self, launch: LaunchSpec, request: EmbedRequest, caller: Caller, keep_alive: float | None = None
    ) -> EmbedResult:
        """Vectors, one per input. A runner that dies is replaced once. Raises OllmlxError."""
        began = self._clock.monotonic()
        lease, result = await self._asked(
            launch, caller, keep_alive, lambda runner, exchange: runner.embed(request, exchange)
        )
        total = _ns(self._clock.monotonic() - began)
        return result.model_copy(update={"queue_ns": lease.queue_ns, "load_ns": lease.load_ns, "total_ns": total})

    async def tokenize(self, launch: LaunchSpec, request: TokenizeRequest, caller: Caller) -> Tokens:
        """Token ids of a text or a conversation. A runner that dies is replaced once. Raises OllmlxError."""
        return (
            await self._asked(
                launch, caller, None, lambda runner, exchange: runner.tokenize(request, exchange, caller.request_id)
            )
        )[1]

    # -- looking after -----------------------------------------------------------------------------------------------

    async def unload(self, key: str, *, wait: bool = True) -> bool:
        """Let a model go as soon as its requests are done, and forget that it failed. False when it was not loaded.

        A load under way still serves those who wait for it. `wait`: return when its process is gone.
        """
        self._fleet.circuits.reset(key)
        places = [place for place in self._fleet.places.values() if place.key == key]
        for place in places:
            place.unwanted = True
        self._scheduler.pump()
        if wait:
            for place in places:
                await place.gone.wait()
        return bool(places)

    def reset(self, name: str) -> bool:
        """Close the circuit of a model (its name, or a launch key), so that it may be started. False: it was closed."""
        found = self._fleet.circuits.reset(name)
        self._scheduler.pump()
        return found

    def runners(self) -> list[RunnerInfo]:
        """What is loading, loaded, leaving, or failed and not there again, as it is at this moment."""
        return self._fleet.shown()

    def queue(self) -> list[Waiting]:
        """The requests that wait for a runner, next one first."""
        return self._scheduler.waiting()

    @contextmanager
    def guarded(self, pid: int) -> Iterator[None]:
        """A process group that is not a runner (an importer) ends with the daemon, too, whatever ends the daemon."""
        with self._workshop.guarded(pid):
            yield

    def subscribe(self, listener: PoolObserver) -> None:
        """Tell this listener, too, of everything from now on."""
        self._listeners.add(listener)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _asked(
        self,
        launch: LaunchSpec,
        caller: Caller,
        keep_alive: float | None,
        question: Callable[[PooledRunner, Exchange], Awaitable[T]],
    ) -> tuple[Lease, T]:
        """What a runner answers in one piece, within the request's time."""
        deadline = self._clock.monotonic() + launch.request_timeout
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.lease(launch, caller, keep_alive, deadline=deadline, again=attempt > 1) as lease:
                    with self._timed(launch, deadline) as exchange:
                        answer = await question(lease.runner, exchange)
                    self._served(lease)
                    return lease, answer
            except RunnerDied as died:
                if attempt > 1 or not died.fresh:
                    raise
                self._retry(launch, died)

    @contextmanager
    def _timed(self, launch: LaunchSpec, deadline: float) -> Iterator[Exchange]:
        """An exchange that is ended when the request's time is over."""
        exchange = Exchange()
        if math.isinf(deadline):
            yield exchange
            return
        limit = format_duration(launch.request_timeout)
        reason = Timeout(f"the request took longer than {limit}: [runners] request_timeout")
        timer = self._clock.call_later(max(0.0, deadline - self._clock.monotonic()), lambda: exchange.abort(reason))
        try:
            yield exchange
        finally:
            timer.cancel()

    def _over(self, lease: Lease, done: Done, began: float) -> Done:
        self._served(lease)
        total = _ns(self._clock.monotonic() - began)
        return done.model_copy(update={"queue_ns": lease.queue_ns, "load_ns": lease.load_ns, "total_ns": total})

    def _served(self, lease: Lease) -> None:
        lease.completed = True
        self._fleet.circuits.served(lease.place.key, self._clock.monotonic(), lease.place.ready_at)

    def _retry(self, launch: LaunchSpec, died: RunnerDied) -> None:
        logger.warning("%s; trying once more on a fresh one", died.message)
        self._listeners.on_retry(launch.name)

    async def _idle(self, patience: float) -> None:
        """Wait until no request is served, for at most `patience` seconds."""
        deadline = self._clock.monotonic() + patience
        while any(place.leases for place in self._fleet.places.values()) and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)


def _ns(seconds: float) -> int:
    return int(max(0.0, seconds) * 1e9)
