"""Gives pending requests their runners, starts loads for them, and decides which models are evicted."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ollmlx.errors import Busy, OllmlxError, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.settings.model import RunnerSettings
from ollmlx.supervisor.clock import Clock, Timer, Tuning
from ollmlx.supervisor.scheduling.memory import EvictionPlan, plan_eviction
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool_entry import PoolEntry
from ollmlx.supervisor.scheduling.queue import LEVELS, PendingRequest, PendingRequests, RetryEstimate
from ollmlx.supervisor.scheduling.runner_set import RunnerSet
from ollmlx.text.quantities import format_duration
from ollmlx.types import Caller

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Scheduler:
    """Decisions are made in `schedule`, from the present state, model by model and not request by request.

    A request that finds its runner full, or other requests waiting for the same load, changes nothing and is only
    queued. So a crowd of requests costs no more than the few models that it asks for.
    """

    _settings: RunnerSettings
    _tuning: Tuning
    _clock: Clock
    _runners: RunnerSet
    _observer: PoolObserver
    pending: PendingRequests = field(default_factory=PendingRequests)
    draining: bool = False
    _retry_estimate: RetryEstimate = field(default_factory=RetryEstimate)
    _timer: Timer | None = None
    _blocked: dict[str, int] = field(default_factory=dict)
    """Models that an overdue request needs out of the way. They serve only requests of a better level than this."""
    _scheduling: bool = False
    _again: bool = False
    _reloads: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Tasks that load pinned models again, by launch key."""

    def __post_init__(self) -> None:
        self._runners.entry_observer = self

    # -- used by the pool --------------------------------------------------------------------------------------------

    async def acquire(
        self, spec: LaunchSpec, caller: Caller, deadline: float = math.inf, *, again: bool = False
    ) -> PoolEntry:
        """Wait for an entry with a free slot, and take the slot. `again`: a retry, which a full queue does not refuse.

        Raises Busy (draining, queue full), OutOfMemory, Timeout at `deadline` (monotonic), and what the load raises.
        """
        entry = self._runners.entries.get(spec.key)
        if entry is not None and entry.has_free_slot and entry.serves(spec) and not entry.stop_when_idle:
            blocked = LEVELS[caller.priority] >= self._blocked.get(spec.key, math.inf)  # an overdue request needs it
            if not blocked and not self.draining:
                entry.take_slot(spec)
                return entry
        request = self._enqueue(spec, caller, again)
        if request.future.done():
            return request.future.result()
        timeout = self._start_timeout(request, deadline)
        logger.debug("waiting for %s; %d requests wait", spec.name, len(self.pending))
        try:
            return await request.future
        except BaseException as error:
            self.pending.remove(request)
            if isinstance(error, asyncio.CancelledError):
                self._on_client_gone(request)
            if not isinstance(error, Timeout):  # after a timeout the load goes on, for the client's next try
                self._cancel_unneeded_load(spec.key)
            self.schedule()
            raise
        finally:
            if timeout is not None:
                timeout.cancel()

    def release(self, entry: PoolEntry, acquired_at: float) -> None:
        """Give back the slot of a request."""
        now = self._clock.monotonic()
        self._retry_estimate.note(now - acquired_at)
        entry.release_slot(now)
        self.schedule()

    def drain(self) -> None:
        """Refuse every pending request, and every one that arrives from now on."""
        self.draining = True
        for request in self.pending.all():
            self._reject(request, _draining(), "draining")
        for reload in self._reloads.values():
            reload.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- called by the runner set ------------------------------------------------------------------------------------

    def on_loaded(self, entry: PoolEntry) -> None:
        """Serve the requests that caused the load, before any other request may evict the model."""
        self._fill(entry, better_than=math.inf)
        self.schedule()

    def on_load_failed(self, entry: PoolEntry, error: OllmlxError) -> None:
        """Fail every request that waited for the load. None of them causes another try."""
        for request in self.pending.of(entry.key):
            self.pending.remove(request)
            request.fail(error)

    def on_exit(self, entry: PoolEntry) -> None:
        """Load a pinned model again after its runner exited without being asked."""
        self._reload_if_pinned(entry)
        self.schedule()

    # -- decisions ---------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Do everything that can be done now. Called after every change; a call during a call repeats it."""
        self._again = True
        if self._scheduling:
            return
        self._scheduling = True
        try:
            while self._again:
                self._again = False
                self._decide(self._clock.monotonic())
        finally:
            self._scheduling = False
        self._observer.on_queue(len(self.pending))

    def _decide(self, now: float) -> None:
        wake: list[float] = []  # times at which to decide again
        self._blocked = {}
        if not self.draining:
            for key in self.pending.keys(now):
                self._consider(key, now, wake)
            for entry in list(self._runners.entries.values()):
                if self.pending.count(entry.key) and not entry.stop_when_idle:
                    self._fill(entry, better_than=self._blocked.get(entry.key, math.inf))
        self._stop_unneeded(now, wake)
        self._set_timer(now, wake)

    def _consider(self, key: str, now: float, wake: list[float]) -> None:
        """Load a model that requests wait for, or see to it that its load begins in time."""
        entry = self._runners.entries.get(key)
        if entry is None:
            self._start_load(key, now, wake)
        elif not entry.stopping and entry.is_loaded and not entry.serves(self.pending.longest(key)):
            self._reload_with_longer_context(entry, now, wake)

    def _reload_with_longer_context(self, entry: PoolEntry, now: float, wake: list[float]) -> None:
        longer = self.pending.next(entry.key, now, lambda spec: not entry.serves(spec))
        assert longer is not None
        overdue = self._is_overdue(longer.arrived, (entry.key,), now, wake)
        if entry.is_idle and (overdue or self.pending.next(entry.key, now) is longer):
            self._stop(entry, "context")
        elif overdue:
            self._block(entry.key, longer.level(now))

    def _start_load(self, key: str, now: float, wake: list[float]) -> None:
        spec = self.pending.longest(key)
        try:
            pause = self._runners.restarts[key].pause(now, spec.name)
        except OllmlxError as error:
            self._reject_all(key, error, "circuit")
            return
        if pause > 0:
            wake.append(now + pause)
            return
        plan = self._plan(spec, lambda entry: entry.is_idle and not self.pending.count(entry.key))
        if not plan.possible:
            self._reject_all(key, self._too_large(spec), "memory")
            return
        level = self.pending.level(key, now)
        if not plan.now:
            if not self._is_overdue(self.pending.since(key), plan.victims, now, wake):
                return
            plan = self._plan(spec, lambda entry: entry.is_idle and self.pending.level(entry.key, now) >= level)
        if plan.now:
            victims = [self._runners.entries[victim] for victim in plan.victims]
            for victim in victims:
                self._stop(victim, "memory")
            self._runners.start_load(spec, after=victims)
        else:
            for victim_key in plan.victims:
                self._block(victim_key, level)

    def _block(self, key: str, level: int) -> None:
        """From now on, only requests of a better level get a slot of this model."""
        self._blocked[key] = min(level, self._blocked.get(key, level))

    def _plan(self, spec: LaunchSpec, is_idle: Callable[[PoolEntry], bool]) -> EvictionPlan:
        candidates = self._runners.eviction_candidates(is_idle)
        left = self._runners.ledger.left
        return plan_eviction(spec.estimate.total, left, candidates, self._settings.max_loaded_models)

    def _is_overdue(self, since: float, victims: Iterable[str], now: float, wake: list[float]) -> bool:
        """Return True when a request has waited long enough to block other models.

        A model that was just loaded has `swap_wait` seconds first.
        """
        entries = [self._runners.entries[key] for key in victims]
        due = max([since, *(entry.loaded_at for entry in entries if entry.is_loaded)]) + self._tuning.swap_wait
        if now < due:
            wake.append(due)
        return now >= due

    def _stop_unneeded(self, now: float, wake: list[float]) -> None:
        """Stop idle models that expired, that were unloaded, or that need a fresh process."""
        for entry in list(self._runners.entries.values()):
            if not entry.is_loaded or not entry.is_idle or entry.stopping:
                continue
            needed = self.pending.count(entry.key) > 0 and not self.draining
            if entry.stop_when_idle:
                self._stop(entry, "asked")
            elif entry.runner is not None and entry.runner.needs_replacement:
                self._stop(entry, "spent")
                self._reload_if_pinned(entry)
            elif now >= entry.expires and not needed:
                self._stop(entry, "keep_alive")
            elif entry.expires < math.inf:
                wake.append(entry.expires)

    def _stop(self, entry: PoolEntry, reason: str) -> None:
        self._runners.stop(entry, reason)
        self._again = True  # its memory can be reserved for another model now

    def _fill(self, entry: PoolEntry, better_than: float) -> None:
        """Give the free slots of an entry to pending requests of a better level than this."""
        now = self._clock.monotonic()
        while entry.has_free_slot:
            request = self.pending.next(entry.key, now, entry.serves)
            if request is None or request.level(now) >= better_than:
                return
            if request.future.cancelled():  # its client is gone, and `acquire` has not run since
                self.pending.remove(request)
            else:
                self.pending.remove(request, served=True)
                entry.take_slot(request.spec)
                request.future.set_result(entry)

    # -- the queue ---------------------------------------------------------------------------------------------------

    def _enqueue(self, spec: LaunchSpec, caller: Caller, again: bool) -> PendingRequest:
        """Put a request into the queue. Raises Busy or OutOfMemory for a refusal."""
        request = PendingRequest(spec, caller, self._clock.monotonic())
        if self.draining:
            self._observer.on_reject(spec.name, "draining")
            raise _draining()
        if spec.estimate.total > self._runners.ledger.budget:
            self._observer.on_reject(spec.name, "memory")
            raise self._runners.ledger.refusal(spec.name, spec.estimate.total)
        self.pending.add(request)
        entry = self._runners.entries.get(spec.key)
        is_loaded = entry is not None and entry.is_loaded
        needs_load = entry is None or not is_loaded or not entry.serves(spec)
        # Only the first request for a load, or one for a longer context, can change a decision.
        if needs_load and (is_loaded or self.pending.count(spec.key) == 1):
            self.schedule()
        if len(self.pending) > self._settings.max_queue and not again and not request.future.done():
            self.pending.remove(request)
            self._observer.on_reject(spec.name, "queue_full")
            slots = sum(one.runner.parallel for one in self._runners.entries.values() if one.runner is not None)
            raise self._retry_estimate.queue_full(len(self.pending), slots)
        self._observer.on_queue(len(self.pending))
        return request

    def _reject(self, request: PendingRequest, error: OllmlxError, reason: str) -> None:
        self.pending.remove(request)
        self._observer.on_reject(request.spec.name, reason)
        request.fail(error)

    def _reject_all(self, key: str, error: OllmlxError, reason: str) -> None:
        for request in self.pending.of(key):
            self._reject(request, error, reason)

    def _too_large(self, spec: LaunchSpec) -> OllmlxError:
        limit = self._settings.max_loaded_models
        pinned = {entry.id for entry in self._runners.entries.values() if entry.spec.pin}
        if limit and len(pinned) >= limit:
            return Busy(
                f"{spec.name} cannot be loaded: all {limit} loaded models are pinned",
                code="RUN005", hint="raise [runners] max_loaded_models, or pin fewer models",
            )  # fmt: skip
        return self._runners.ledger.refusal(spec.name, spec.estimate.total, pinned)

    def _start_timeout(self, request: PendingRequest, deadline: float) -> Timer | None:
        if math.isinf(deadline):
            return None

        def expire() -> None:
            if not request.future.done():
                self._reject(request, self._timeout_error(request), "timeout")

        return self._clock.call_later(max(0.0, deadline - request.arrived), expire)

    def _timeout_error(self, request: PendingRequest) -> Timeout:
        entry, name = self._runners.entries.get(request.spec.key), request.spec.name
        waited = format_duration(round(self._clock.monotonic() - request.arrived, 1))
        if entry is not None and not entry.is_loaded and not entry.stopping:
            return Timeout(f"{name} is still being loaded after {waited}: [runners] request_timeout")
        return Timeout(f"no runner for {name} within {waited}: [runners] request_timeout")

    def _on_client_gone(self, request: PendingRequest) -> None:
        """Release the slot that the request may have got just before its client disconnected."""
        entry = self._runners.entries.get(request.spec.key)
        loading = entry is not None and not entry.is_loaded
        self._observer.on_cancel(request.spec.name, "loading" if loading else "queued")
        future = request.future
        if future.done() and not future.cancelled() and future.exception() is None:
            future.result().release_slot(self._clock.monotonic())

    def _cancel_unneeded_load(self, key: str) -> None:
        """Cancel a load that no request waits for any more."""
        entry = self._runners.entries.get(key)
        if entry is not None and not entry.is_loaded and not self.pending.count(key):
            self._stop(entry, "cancelled")

    # -- timers and tasks --------------------------------------------------------------------------------------------

    def _set_timer(self, now: float, wake: list[float]) -> None:
        """Decide again at the earliest of these times."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(max(0.0, min(wake) - now), self.schedule) if wake else None

    def _reload_if_pinned(self, entry: PoolEntry) -> None:
        if entry.spec.pin and not self.draining and entry.key not in self._reloads:
            task = asyncio.create_task(self._reload(entry.spec), name=f"reload {entry.id}")
            self._reloads[entry.key] = task
            task.add_done_callback(lambda _: self._reloads.pop(entry.key, None))

    async def _reload(self, spec: LaunchSpec) -> None:
        """Load a pinned model again, however often that fails."""
        caller = Caller(request_id=f"reload-{spec.model.name.short}", priority="low")
        while not self.draining:
            try:
                entry = await self.acquire(spec, caller, again=True)
            except OllmlxError as error:
                logger.warning("cannot load the pinned model %s yet: %s", spec.name, error.message)
                await self._clock.sleep(error.retry_after or 60.0)
            else:
                entry.release_slot(self._clock.monotonic())
                self.schedule()
                return


def _draining() -> Busy:
    return Busy("the server is shutting down", retry_after=5)
