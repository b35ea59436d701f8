"""Who gets a runner next: seats waiting requests, starts loads for them, and decides who has to go."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ollmlx.errors import Busy, OllmlxError, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.settings import RunnerSettings
from ollmlx.supervisor.clock import Clock, Timer
from ollmlx.supervisor.scheduling.capacity import RetryEstimate
from ollmlx.supervisor.scheduling.eviction import Plan, plan
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool_entry import Place
from ollmlx.supervisor.scheduling.queue import PendingRequest, PendingRequests
from ollmlx.supervisor.scheduling.runner_set import RunnerSet
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_duration
from ollmlx.types import Caller

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One waiting request as metrics and people see it. Seconds; `position` 1 is next."""

    model: str
    client: str
    priority: str
    waited: float
    position: int


class Scheduler:
    """Decisions are made in `pump`, from the state as it is then, model by model and not request by request.

    A request that finds its runner full, or others waiting for the same load, changes nothing: it is only written down.
    So neither a crowd that comes nor one that is refused costs more than the few models it asks for.
    """

    def __init__(
        self, settings: RunnerSettings, tuning: Tuning, clock: Clock, fleet: RunnerSet, listener: PoolObserver
    ) -> None:
        self.room: PendingRequests[Place] = PendingRequests()
        self.draining = False
        self._settings = settings
        self._tuning = tuning
        self._clock = clock
        self._fleet = fleet
        self._listener = listener
        self._retry_estimate = RetryEstimate()
        self._timer: Timer | None = None
        self._wake_at = math.inf
        self._closed: dict[str, int] = {}
        """Models that take nobody else, with the priority of who has waited long enough for their memory."""
        self._pumping = False
        self._again = False
        self._revivals: dict[str, asyncio.Task[None]] = {}
        fleet.dispatcher = self

    # -- what the pool asks ------------------------------------------------------------------------------------------

    async def seat(
        self, launch: LaunchSpec, caller: Caller, deadline: float = math.inf, *, again: bool = False
    ) -> Place:
        """Wait for a place with a free slot, and take it. `again`: a retry, which the queue's limit does not refuse.

        Raises Busy (draining, queue full), OutOfMemory, Timeout at `deadline` (monotonic), and whatever loading raises.
        """
        ticket = self._enter(launch, caller, self._clock.monotonic(), again)
        if ticket.future.done():
            return ticket.future.result()
        expiry = self._expiry(ticket, deadline)
        logger.debug("waiting for %s; %d wait", launch.name, len(self.room))
        try:
            return await ticket.future
        except BaseException as ended:
            self.room.remove(ticket)
            if isinstance(ended, asyncio.CancelledError):
                self._left(ticket)
            if not isinstance(ended, Timeout):  # who was told that it takes longer will ask again
                self._give_up(launch.key)
            self.pump()
            raise
        finally:
            if expiry is not None:
                expiry.cancel()

    def release(self, place: Place, taken: float) -> None:
        """A request is done with its place. `taken` is when it got it."""
        self._retry_estimate.note(self._clock.monotonic() - taken)
        self._fleet.release(place)
        self.pump()

    def waiting(self) -> list[Waiting]:
        """Everyone who waits, next one first."""
        now = self._clock.monotonic()
        return [
            Waiting(ticket.launch.name, ticket.caller.client, ticket.caller.priority, now - ticket.arrived, position)
            for position, ticket in enumerate(self.room.order(now), 1)
        ]

    def drain(self) -> None:
        """Refuse all who wait and all who come."""
        self.draining = True
        for ticket in self.room.everyone():
            self.room.remove(ticket)
            self._listener.on_reject(ticket.launch.name, "draining")
            ticket.fail(_draining())
        for revival in self._revivals.values():
            revival.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- what the fleet tells ----------------------------------------------------------------------------------------

    def ready(self, place: Place) -> None:
        """Loaded: those who waited for it are served before anybody may evict it."""
        self._fill(place, best=math.inf)
        self.pump()

    def failed(self, place: Place, error: OllmlxError) -> None:
        """A load failed: nobody who waited for it is made to wait for another try."""
        for ticket in self.room.of(place.key):
            self.room.remove(ticket)
            ticket.fail(error)

    def died(self, place: Place) -> None:
        """A loaded runner ended unasked."""
        self._bring_back(place)
        self.pump()

    def changed(self) -> None:
        self.pump()

    # -- deciding ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Do everything that can be done now. Called after every change."""
        if self._pumping:
            self._again = True
            return
        self._pumping = True
        try:
            self._again = True
            while self._again:
                self._again = False
                self._round(self._clock.monotonic())
        finally:
            self._pumping = False
        self._listener.on_queue(len(self.room))

    def _round(self, now: float) -> None:
        wake: list[float] = []
        self._closed = {}
        if not self.draining:
            for key in self.room.keys(now):
                self._consider(key, now, wake)
            for place in list(self._fleet.places.values()):
                if self.room.waiting_for(place.key) and place.free:
                    self._fill(place, best=self._closed.get(place.key, math.inf))
        self._expire(now, wake)
        self._set_timer(now, wake)

    def _consider(self, key: str, now: float, wake: list[float]) -> None:
        """Load a model that is waited for, or make sure that it can be loaded in time."""
        place = self._fleet.places.get(key)
        if place is None:
            self._load_for(key, now, wake)
        elif not place.leaving and place.settled and not _serves(place, self.room.longest(key)):
            self._lengthen(place, now, wake)

    def _lengthen(self, place: Place, now: float, wake: list[float]) -> None:
        """Somebody needs a longer context than this runner was started with."""
        longer = self.room.next(place.key, now, lambda launch: not _serves(place, launch))
        assert longer is not None
        overdue = self._overdue(longer.arrived, (place,), now, wake)
        if place.idle and (overdue or self.room.next(place.key, now) is longer):
            self._let_go(place, "context")
        elif overdue:
            self._close(place.key, longer.level(now))

    def _load_for(self, key: str, now: float, wake: list[float]) -> None:
        launch = self.room.longest(key)
        try:
            pause = self._fleet.circuits.wait(key, now)
        except OllmlxError as error:
            self._refuse(key, error, "circuit")
            return
        if pause > 0:
            wake.append(now + pause)
            return
        chosen = self._plan(launch, lambda place: place.idle and not self.room.waiting_for(place.key))
        if not chosen.possible:
            self._refuse(key, self._misfit(launch), "memory")
            return
        level = self.room.level(key, now)
        if not chosen.now:
            if not self._overdue(self.room.since(key), self._places(chosen), now, wake):
                return
            chosen = self._plan(launch, lambda place: place.idle and self.room.level(place.key, now) >= level)
        victims = self._places(chosen)
        if chosen.now:
            for victim in victims:
                self._let_go(victim, "memory")
            self._fleet.begin(launch, after=victims)
        else:
            for victim in victims:
                self._close(victim.key, level)

    def _close(self, key: str, level: int) -> None:
        """From now on only requests of a better priority than this one's get a slot of this model."""
        self._closed[key] = min(level, self._closed.get(key, level))

    def _plan(self, launch: LaunchSpec, idle: Callable[[Place], bool]) -> Plan:
        residents = self._fleet.residents(idle)
        return plan(launch.estimate.total, self._fleet.ledger.left, residents, self._settings.max_loaded_models)

    def _places(self, chosen: Plan) -> list[Place]:
        return [self._fleet.places[key] for key in chosen.victims]

    def _expire(self, now: float, wake: list[float]) -> None:
        for place in list(self._fleet.places.values()):
            if not place.settled or not place.idle or place.leaving:
                continue
            wanted = self.room.waiting_for(place.key) > 0 and not self.draining
            if place.unwanted:
                self._let_go(place, "asked")
            elif place.runner is not None and place.runner.bloated:
                self._let_go(place, "bloated")
                self._bring_back(place)
            elif now >= place.expires and not wanted:
                self._let_go(place, "keep_alive")
            elif place.expires < math.inf:
                wake.append(place.expires)

    def _let_go(self, place: Place, reason: str) -> None:
        self._fleet.let_go(place, reason)
        self._again = True  # the room may be promised to somebody else

    def _overdue(self, since: float, victims: Iterable[Place], now: float, wake: list[float]) -> bool:
        """It has waited long enough for others to be shut out. A model that was just loaded has its time first."""
        ready = [victim.ready_at for victim in victims if victim.settled]
        due = max(since, *ready, -math.inf) + self._tuning.swap_wait
        if now < due:
            wake.append(due)
        return now >= due

    def _fill(self, place: Place, best: float) -> None:
        """Give its free slots to those who wait and have a better priority than `best`."""
        now = self._clock.monotonic()
        while place.roomy:
            ticket = self.room.next(place.key, now, lambda launch: _serves(place, launch))
            if ticket is None or ticket.level(now) >= best:
                return
            if ticket.future.cancelled():  # its client left, and `seat` has not heard of it yet
                self.room.remove(ticket)
            else:
                self._give(ticket, place)

    def _give(self, ticket: PendingRequest[Place], place: Place) -> None:
        self.room.remove(ticket, served=True)
        place.join(ticket.launch)
        self._fleet.take(place)
        ticket.future.set_result(place)

    def _refuse(self, key: str, error: OllmlxError, reason: str) -> None:
        for ticket in self.room.of(key):
            self.room.remove(ticket)
            self._listener.on_reject(ticket.launch.name, reason)
            ticket.fail(error)

    def _misfit(self, launch: LaunchSpec) -> OllmlxError:
        most = self._settings.max_loaded_models
        if most and sum(place.launch.pin for place in self._fleet.places.values()) >= most:
            return Busy(
                f"{launch.name} cannot be loaded: all {most} loaded models are pinned",
                code="RUN005", hint="raise [runners] max_loaded_models, or pin fewer models",
            )  # fmt: skip
        pinned = {place.id for place in self._fleet.places.values() if place.launch.pin}
        return self._fleet.ledger.refusal(launch.name, launch.estimate.total, pinned)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _enter(self, launch: LaunchSpec, caller: Caller, now: float, again: bool) -> PendingRequest[Place]:
        if self.draining:
            self._listener.on_reject(launch.name, "draining")
            raise _draining()
        if launch.estimate.total > self._fleet.ledger.budget:
            self._listener.on_reject(launch.name, "memory")
            raise self._fleet.ledger.refusal(launch.name, launch.estimate.total)
        ticket: PendingRequest[Place] = PendingRequest(launch, caller, now)
        self.room.add(ticket)
        self._seek(ticket, now)
        # Only who really has to wait is refused.
        if len(self.room) > self._settings.max_queue and not again and not ticket.future.done():
            self.room.remove(ticket)
            self._listener.on_reject(launch.name, "queue_full")
            slots = sum(place.runner.parallel for place in self._fleet.places.values() if place.runner is not None)
            raise self._retry_estimate.queue_full(len(self.room), slots)
        self._listener.on_queue(len(self.room))
        return ticket

    def _seek(self, ticket: PendingRequest[Place], now: float) -> None:
        """Do what the arrival of a request makes possible. What those before it made possible has been done."""
        key = ticket.launch.key
        place = self._fleet.places.get(key)
        if place is not None and place.settled and _serves(place, ticket.launch):
            if place.free and ticket.level(now) < self._closed.get(key, math.inf):
                self._give(ticket, place)
        elif self.room.waiting_for(key) == 1 or (place is not None and place.settled):
            self.pump()

    def _expiry(self, ticket: PendingRequest[Place], deadline: float) -> Timer | None:
        if math.isinf(deadline):
            return None

        def expire() -> None:
            if not ticket.future.done():
                self.room.remove(ticket)
                self._listener.on_reject(ticket.launch.name, "timeout")
                ticket.fail(self._too_long(ticket))

        return self._clock.call_later(max(0.0, deadline - ticket.arrived), expire)

    def _too_long(self, ticket: PendingRequest[Place]) -> Timeout:
        place, name = self._fleet.places.get(ticket.launch.key), ticket.launch.name
        waited = format_duration(round(self._clock.monotonic() - ticket.arrived, 1))
        if place is not None and not place.settled and not place.leaving:
            return Timeout(f"{name} is still being loaded after {waited}: [runners] request_timeout")
        return Timeout(f"no runner for {name} within {waited}: [runners] request_timeout")

    def _left(self, ticket: PendingRequest[Place]) -> None:
        """Its client is gone. What it was given meanwhile is given back."""
        place = self._fleet.places.get(ticket.launch.key)
        loading = place is not None and not place.settled
        self._listener.on_cancel(ticket.launch.name, "loading" if loading else "queued")
        future = ticket.future
        if future.done() and not future.cancelled() and future.exception() is None:
            self._fleet.release(future.result())

    def _give_up(self, key: str) -> None:
        """A load that nobody waits for any more ends."""
        place = self._fleet.places.get(key)
        if place is not None and not place.settled and not self.room.waiting_for(key):
            self._let_go(place, "cancelled")

    def _set_timer(self, now: float, wake: list[float]) -> None:
        earliest = min(wake, default=math.inf)
        if earliest == self._wake_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_at = earliest
        if earliest < math.inf:
            self._timer = self._clock.call_later(max(0.0, earliest - now), self._woken)

    def _woken(self) -> None:
        self._timer, self._wake_at = None, math.inf
        self.pump()

    def _bring_back(self, place: Place) -> None:
        """See to it that a pinned model is there again, although nobody asks for it."""
        if place.launch.pin and not self.draining and place.key not in self._revivals:
            task = asyncio.create_task(self._revive(place.launch), name=f"revive {place.id}")
            self._revivals[place.key] = task
            task.add_done_callback(lambda _: self._revivals.pop(place.key, None))

    async def _revive(self, launch: LaunchSpec) -> None:
        """Bring a pinned model back, however long its circuit stays open."""
        caller = Caller(request_id=f"revive-{launch.model.name.short}", priority="low")
        while not self.draining:
            try:
                place = await self.seat(launch, caller, again=True)
            except OllmlxError as error:
                logger.warning("cannot bring %s back yet: %s", launch.name, error.message)
                await self._clock.sleep(error.retry_after or 60.0)
            else:
                self._fleet.release(place)
                self.pump()
                return


def _serves(place: Place, launch: LaunchSpec) -> bool:
    return place.launch.context_length >= launch.context_length


def _draining() -> Busy:
    return Busy("the server is shutting down", retry_after=5)
