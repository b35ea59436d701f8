"""The pool: one runner for each loaded model, shared by its requests, under one memory budget."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from ollmlx.errors import Busy, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Clock, SystemClock, Timer, Tuning
from ollmlx.supervisor.machine import ThisMachine, find_budget
from ollmlx.supervisor.runner.client import RunnerCall
from ollmlx.supervisor.runner.factory import PooledRunner, ProcessRunnerFactory, RunnerFactory
from ollmlx.supervisor.runner.failure import RunnerExited
from ollmlx.supervisor.scheduling.memory import MemoryLedger
from ollmlx.supervisor.scheduling.observer import PoolObserver, PoolObservers
from ollmlx.supervisor.scheduling.pool_entry import PoolEntry
from ollmlx.supervisor.scheduling.queue import QueuedRequest
from ollmlx.supervisor.scheduling.runner_set import RunnerSet
from ollmlx.supervisor.scheduling.scheduler import Scheduler
from ollmlx.text.quantities import format_duration
from ollmlx.types import (
    Admitted,
    Caller,
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    Listened,
    Prefill,
    RerankRequest,
    RerankResult,
    RunnerInfo,
    StreamRequest,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
STOP_MARGIN = 5.0
"""Seconds beyond `stop_timeout` after which `close` no longer waits for a process that cannot be killed."""


@dataclass(eq=False, slots=True)
class Lease:
    """The right of one request to use a runner. Times in nanoseconds; `load_ns` is 0 when the model was loaded."""

    runner: PooledRunner
    queue_ns: int
    load_ns: int
    entry: PoolEntry
    call: RunnerCall
    """For the one request to the runner. It is aborted when the request's time is over."""
    completed: bool = False
    """The answer is complete. A client that disconnects before cancels its request."""


class Pool:
    """Made where its event loop will run, started and closed once. All methods are for the event loop's thread.

    `budget` is the number of bytes for all models together.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        factory: RunnerFactory | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._tuning = tuning = tuning or Tuning()
        self._clock = clock or SystemClock()
        self._factory = factory or ProcessRunnerFactory(settings, self._clock, tuning)
        self.budget = find_budget(settings.memory, ThisMachine()).size
        self._observers = PoolObservers()
        self._runners = RunnerSet(
            self._clock, self._factory, MemoryLedger(self.budget), tuning, self._observers,
            settings.runners.max_loaded_models,
        )  # fmt: skip
        self._scheduler = Scheduler(settings.runners, tuning, self._clock, self._runners, self._observers)

    # -- start and end -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the state folder, end orphans of an earlier daemon, start the guardian.

        Raises Conflict when another daemon has the folder, StorageError when it cannot be used.
        """
        await self._factory.open()

    async def close(self, drain: float) -> None:
        """Refuse new requests, let running ones finish for `drain` seconds, end the rest with an error, stop all."""
        try:
            await self._stop_all(drain)
        finally:
            await self._factory.close()

    async def _stop_all(self, drain: float) -> None:
        self._scheduler.drain()
        for entry in list(self._runners.entries.values()):
            if not entry.is_loaded:
                self._runners.stop(entry, "drain")
        deadline = self._clock.monotonic() + drain
        while any(entry.leases for entry in self._runners.entries.values()) and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)
        entries = list(self._runners.entries.values())
        for entry in entries:
            if entry.runner is not None and entry.leases:
                entry.runner.abort(Busy("the server is shutting down", retry_after=5))
            self._runners.stop(entry, "drain")
        waiting = [asyncio.ensure_future(entry.exited.wait()) for entry in entries]
        if waiting:
            await asyncio.wait(waiting, timeout=self._tuning.stop_timeout + STOP_MARGIN)
        for exit_, entry in zip(waiting, entries, strict=True):
            if not exit_.done():
                logger.error("%s does not exit", entry.id)
                exit_.cancel()

    # -- requests ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(
        self,
        spec: LaunchSpec,
        caller: Caller,
        keep_alive: float | None = None,
        *,
        deadline: float | None = None,
        again: bool = False,
    ) -> AsyncIterator[Lease]:
        """Load the model if needed, and hold a slot of its runner.

        `keep_alive` in seconds; None: as an earlier request asked, else as the spec says. `deadline` is monotonic;
        None: `request_timeout` of the spec from now. `again`: a retry. Raises Busy, OutOfMemory, Timeout, RunnerFailed
        and its kinds.
        """
        arrived = self._clock.monotonic()
        if deadline is None:
            deadline = arrived + spec.request_timeout
        entry = await self._scheduler.acquire(spec, caller, deadline, again=again)
        assert entry.runner is not None
        if keep_alive is not None:  # an explicit one wins and persists
            entry.keep_alive, entry.keep_alive_requested = keep_alive, True
        elif not entry.keep_alive_requested:
            entry.keep_alive = spec.keep_alive
        acquired = self._clock.monotonic()
        loading = max(0.0, min(acquired, entry.loaded_at) - max(arrived, entry.created_at))
        waited = acquired - arrived
        self._observers.on_admit(spec.name, waited, loading)
        lease = Lease(entry.runner, int((waited - loading) * 1e9), int(loading * 1e9), entry, RunnerCall())
        timer: Timer | None = None
        if deadline < math.inf:
            limit = format_duration(spec.request_timeout)
            late = Timeout(f"the request took longer than {limit}: [runners] request_timeout")
            timer = self._clock.call_later(max(0.0, deadline - acquired), lambda: lease.call.abort(late))
        logger.debug("%s serves the request: waited %.3f s, %d slots taken", entry.id, waited, entry.leases)
        entry.clients[caller.client] += 1
        try:
            yield lease
        except (asyncio.CancelledError, GeneratorExit):
            if not lease.completed:
                self._observers.on_cancel(spec.name, "running")
            raise
        finally:
            if timer is not None:
                timer.cancel()
            entry.clients[caller.client] -= 1
            self._scheduler.release(entry, acquired)
            logger.debug("%s is done with the request after %.3f s", entry.id, self._clock.monotonic() - acquired)

    async def generate(
        self, spec: LaunchSpec, request: StreamRequest, caller: Caller, keep_alive: float | None = None
    ) -> AsyncGenerator[Event]:
        """Yield `Admitted`, the runner's events, `Done`. A runner that exits before it answered is replaced once.

        Raises OllmlxError for every other end. `Admitted` comes with the first event, so that an early failure is
        raised before the client was sent anything.
        """
        began = self._clock.monotonic()
        deadline = began + spec.request_timeout
        admitted = answered = False
        for attempt in (1, 2):
            try:
                async with (
                    self.lease(spec, caller, keep_alive, deadline=deadline, again=attempt > 1) as lease,
                    aclosing(lease.runner.generate(request, lease.call)) as events,
                ):
                    async for event in events:
                        if not admitted:
                            admitted = True
                            yield Admitted(queue_ns=lease.queue_ns, load_ns=lease.load_ns, runner=lease.entry.id)
                        if not answered and not isinstance(event, Prefill | Listened):
                            answered = True
                            self._answered(lease)
                        if isinstance(event, Done):
                            event = event.model_copy(update=self._finish(lease, began))
                        yield event
                return
            except RunnerExited as exited:
                if answered:
                    raise
                self._check_retry(spec, exited, attempt)

    async def embed(
        self, spec: LaunchSpec, request: EmbedRequest, caller: Caller, keep_alive: float | None = None
    ) -> EmbedResult:
        """Return one vector for each input. A runner that exits is replaced once. Raises OllmlxError."""
        began = self._clock.monotonic()
        lease, result = await self._ask(spec, caller, keep_alive, lambda runner, call: runner.embed(request, call))
        return result.model_copy(update=self._finish(lease, began))

    async def rerank(
        self, spec: LaunchSpec, request: RerankRequest, caller: Caller, keep_alive: float | None = None
    ) -> RerankResult:
        """Return a score for each document. A runner that exits is replaced once. Raises OllmlxError."""
        began = self._clock.monotonic()
        lease, result = await self._ask(spec, caller, keep_alive, lambda runner, call: runner.rerank(request, call))
        return result.model_copy(update=self._finish(lease, began))

    async def tokenize(self, spec: LaunchSpec, request: TokenizeRequest, caller: Caller) -> Tokens:
        """Return the tokens of a text or a conversation. A runner that exits is replaced once. Raises OllmlxError."""
        _, tokens = await self._ask(
            spec, caller, None, lambda runner, call: runner.tokenize(request, call, caller.request_id)
        )
        return tokens

    # -- models ------------------------------------------------------------------------------------------------------

    def has_runner(self, key: str) -> bool:
        """Return True when a runner of this launch key is loaded or being loaded."""
        entry = self._runners.entries.get(key)
        return entry is not None and not entry.stopping

    async def unload(self, key: str, *, wait: bool = True) -> bool:
        """Stop a model as soon as its requests are done, and forget that it failed. False when it was not loaded.

        A load under way still serves the requests that wait for it. `wait`: return when the process has exited.
        """
        self._runners.restarts.pop(key, None)
        entry = self._runners.entries.get(key)
        if entry is not None:
            entry.stop_when_idle = True
        self._scheduler.schedule()
        if wait and entry is not None:
            await entry.exited.wait()
        return entry is not None

    def runners(self) -> list[RunnerInfo]:
        """Return the models that are loading, loaded, stopping, or failed and not loaded again, as they are now."""
        return self._runners.infos()

    def queue(self) -> list[QueuedRequest]:
        """Return the requests that wait for a runner, the next one first."""
        return self._scheduler.pending.describe(self._clock.monotonic())

    def guarded(self, pid: int) -> AbstractContextManager[None]:
        """End a process group that is not a runner (an importer), too, should the daemon exit inside this context."""
        return self._factory.guarded(pid)

    def subscribe(self, observer: PoolObserver) -> None:
        """Call this observer, too, from now on."""
        self._observers.subscribers.append(observer)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        spec: LaunchSpec,
        caller: Caller,
        keep_alive: float | None,
        ask: Callable[[PooledRunner, RunnerCall], Awaitable[T]],
    ) -> tuple[Lease, T]:
        """Return what a runner answers in one piece, within the request's time."""
        deadline = self._clock.monotonic() + spec.request_timeout
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.lease(spec, caller, keep_alive, deadline=deadline, again=attempt > 1) as lease:
                    answer = await ask(lease.runner, lease.call)
                    self._answered(lease)
                    lease.completed = True
                    return lease, answer
            except RunnerExited as exited:
                self._check_retry(spec, exited, attempt)

    def _check_retry(self, spec: LaunchSpec, exited: RunnerExited, attempt: int) -> None:
        """Announce a retry. Raises the failure when a retry is no use, or was the last one."""
        if attempt > 1 or not exited.retryable:
            raise exited
        logger.warning("%s; trying once more on a fresh runner", exited.message)
        self._observers.on_retry(spec.name)

    def _answered(self, lease: Lease) -> None:
        lease.entry.answered = True
        self._runners.restarts[lease.entry.key].unanswered = 0

    def _finish(self, lease: Lease, began: float) -> dict[str, int]:
        """Mark the lease as completed. Returns the times of its request."""
        lease.completed = True
        total = int((self._clock.monotonic() - began) * 1e9)
        return {"queue_ns": lease.queue_ns, "load_ns": lease.load_ns, "total_ns": total}
