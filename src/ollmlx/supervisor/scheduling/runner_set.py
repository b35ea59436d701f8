"""The runners there are: begun, loaded, used, let go, dead. Keeps the ledger true; decides nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from ollmlx.errors import OllmlxError, RunnerFailed, RunnerUnavailable
from ollmlx.launch.spec import LaunchSpec
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.process.exit_status import Remedy
from ollmlx.supervisor.runner.factory import PooledRunner, RunnerFactory
from ollmlx.supervisor.runner.failure import Cause, RunnerFailure
from ollmlx.supervisor.scheduling.circuits import Circuits
from ollmlx.supervisor.scheduling.eviction import Resident
from ollmlx.supervisor.scheduling.memory import Ledger, allow, prompt_cache_share
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool_entry import Place
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_size
from ollmlx.types import RunnerInfo, RunnerState

logger = logging.getLogger(__name__)


class Dispatcher(Protocol):
    """Who is told what became of a place."""

    def ready(self, place: Place) -> None: ...
    def failed(self, place: Place, error: OllmlxError) -> None: ...
    def died(self, place: Place) -> None: ...
    def changed(self) -> None: ...


class RunnerSet:
    """At most one place for each launch key. Used on the event loop only; nothing here waits but its own tasks."""

    def __init__(
        self,
        settings: Settings,
        tuning: Tuning,
        clock: Clock,
        workshop: RunnerFactory,
        ledger: Ledger,
        circuits: Circuits,
        listener: PoolObserver,
    ) -> None:
        self.places: dict[str, Place] = {}
        self.ledger = ledger
        self.circuits = circuits
        self.dispatcher: Dispatcher
        self._settings = settings
        self._tuning = tuning
        self._clock = clock
        self._workshop = workshop
        self._listener = listener
        self._numbers = itertools.count(1)

    # -- what the scheduler asks -------------------------------------------------------------------------------------

    def residents(self, idle: Callable[[Place], bool]) -> list[Resident]:
        """Who holds memory and is not leaving."""
        return [
            Resident(
                place.key, self.ledger.amount(place.id), idle(place), place.launch.pin, place.settled, place.last_used
            )
            for place in self.places.values()
            if not place.leaving
        ]

    def begin(self, launch: LaunchSpec, after: Iterable[Place] = ()) -> Place:
        """Promise memory and start to load, once the places in `after` are gone. The caller has made the plan."""
        need = launch.estimate.total
        cache = prompt_cache_share(self._settings.memory, launch.prompt_cache_bytes, self.ledger.left - need)
        allowance = allow(need, cache, self.ledger.budget, self._tuning)
        place = Place(
            id=f"{launch.model.name.short}#{next(self._numbers)}",
            launch=launch,
            allowance=allowance,
            began=self._clock.monotonic(),
            after={each.id for each in after},
            keep_alive=launch.keep_alive,
        )
        self.ledger.promise(place.id, allowance.reserved, launch.name)
        self.places[launch.key] = place
        logger.debug(
            "%s is promised %s for a context of %d; %s of %s are left, %d others have to go first",
            place.id, format_size(allowance.reserved), launch.context_length, format_size(self.ledger.left),
            format_size(self.ledger.budget), len(place.after),
        )  # fmt: skip
        self._admit(place)
        place.task = asyncio.create_task(self._load(place), name=f"load {place.id}")
        place.task.add_done_callback(lambda _: self._load_ended(place))
        return place

    def take(self, place: Place) -> None:
        """One request more uses it."""
        assert place.runner is not None
        place.leases += 1
        place.runner.working = place.leases

    def release(self, place: Place) -> None:
        """One request less."""
        place.leases -= 1
        if place.runner is not None:
            place.runner.working = place.leases
        place.used(self._clock.monotonic())

    def let_go(self, place: Place, reason: str) -> None:
        """End it: loading or loaded, its requests are not asked."""
        if place.leaving or self.places.get(place.key) is not place:
            return
        logger.info("letting %s go: %s", place.id, reason)
        place.leaving = True
        self.ledger.leave(place.id)
        if place.ready_at < math.inf:
            self._listener.on_evict(place.launch.name, reason)
            place.task = asyncio.create_task(self._end(place), name=f"end {place.id}")
        elif place.task is not None:
            place.task.cancel()

    def shown(self) -> list[RunnerInfo]:
        """All places, and what failed and is not there again."""
        living = [place.info(self._clock, self.circuits.restarts(place.key)) for place in self.places.values()]
        return living + self.circuits.shown(self._clock.monotonic())

    # -- inside ------------------------------------------------------------------------------------------------------

    def _admit(self, place: Place) -> None:
        if not place.after and self._may_be_one_more(place) and self.ledger.claim(place.id):
            place.room.set()

    def _may_be_one_more(self, place: Place) -> bool:
        """Whether its process may be there beside the others: one that is leaving counts until it is gone."""
        most = self._settings.runners.max_loaded_models
        return most == 0 or sum(other.room.is_set() for other in self.places.values() if other is not place) < most

    def _remove(self, place: Place) -> None:
        if self.places.get(place.key) is place:
            del self.places[place.key]
        self.ledger.release(place.id)
        place.gone.set()
        for other in self.places.values():
            other.after.discard(place.id)
            if not other.room.is_set() and not other.leaving:
                self._admit(other)

    async def _load(self, place: Place) -> None:
        outcome = "cancelled"
        try:
            await place.room.wait()
            runner = await self._started(place)
            if place.leaving:  # decided while the last step was being done
                await runner.stop(self._tuning.stop_timeout)
                return
            outcome = "ok"
        except asyncio.CancelledError:
            if not place.leaving:
                raise
        except OllmlxError as error:
            outcome = "failed"
            self._load_failed(place, error)
        except Exception as error:
            outcome = "failed"
            logger.exception("loading %s met a bug", place.id)
            self._load_failed(place, RunnerFailed(f"cannot load {place.launch.name}: {error!r}", code="RUN001"))
        finally:
            seconds = self._clock.monotonic() - place.began
            self._listener.on_load(place.launch.name, place.launch.backend, seconds, outcome)
        if outcome == "ok":
            place.ready_at = self._clock.monotonic()
            place.used(place.ready_at)
            self.circuits.loaded(place.key)
            logger.info("%s is ready after %.2f s", place.id, place.ready_at - place.began)
            self.dispatcher.ready(place)

    def _load_ended(self, place: Place) -> None:
        """Here, not in the load itself: one that is given up before its first step never runs."""
        if place.ready_at == math.inf:
            self._remove(place)
            self.dispatcher.changed()

    async def _started(self, place: Place) -> PooledRunner:
        """A loaded runner. When memory ran out, idle neighbours are let go and the load is tried once more."""
        try:
            return await self._start(place)
        except OllmlxError as error:
            death = place.runner.death if place.runner is not None else None
            leaving = self._make_room(place) if death is not None and death.remedy is Remedy.MAKE_ROOM else []
            if not leaving:
                raise
            logger.warning("%s; trying once more without %d others", error.message, len(leaving))
        for other in leaving:
            await other.gone.wait()
        return await self._start(place)

    async def _start(self, place: Place) -> PooledRunner:
        runner = self._workshop.make(place.launch, place.id, place.allowance)
        runner.on_death = lambda death: self._died(place, death)
        runner.on_change = self.dispatcher.changed
        place.runner = runner
        try:
            await runner.start()
        except OSError as error:  # no process, no socket, no descriptor left: not the model's fault
            raise RunnerUnavailable(
                f"cannot start a runner for {place.launch.name}: {error.strerror or error}",
                code="RUN001",
                retry_after=1,
            ) from error
        return runner

    def _make_room(self, place: Place) -> list[Place]:
        """Let every idle neighbour go. Those that were let go."""
        victims = [
            other
            for other in self.places.values()
            if other is not place and other.settled and other.idle and not other.leaving and not other.launch.pin
        ]
        for victim in victims:
            self.let_go(victim, "memory")
        return victims

    def _load_failed(self, place: Place, error: OllmlxError) -> None:
        logger.error("%s", error.message)
        death = place.runner.death if place.runner is not None else None
        if death is not None:
            self._note(place, death, error.message)
        self._remove(place)
        self.dispatcher.failed(place, error)

    async def _end(self, place: Place) -> None:
        assert place.runner is not None
        await place.runner.stop(self._tuning.stop_timeout)
        self._remove(place)
        self.dispatcher.changed()

    def _died(self, place: Place, death: RunnerFailure) -> None:
        self._note(place, death, death.sentence(place.launch.name))
        cause = death.label or death.cause.value
        self._listener.on_restart(place.launch.name, cause)
        self._remove(place)
        if death.cause is Cause.EXIT and death.remedy is Remedy.MAKE_ROOM:
            self._make_room(place)
        self.dispatcher.died(place)

    def _note(self, place: Place, death: RunnerFailure, message: str) -> None:
        info = place.info(self._clock, self.circuits.restarts(place.key)).model_copy(
            update={
                "state": RunnerState.FAILED, "pid": None, "active": 0, "reserved": 0, "memory": 0, "expires_at": None,
                "last_error": message, "last_code": death.code, "last_words": death.last_words,
            }
        )  # fmt: skip
        self.circuits.failed(place.key, place.launch.name, self._clock.monotonic(), death, info)
