"""The pool entries and their life: loaded, used, stopped, exited. Keeps the memory ledger true; decides nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ollmlx.errors import OllmlxError, RunnerFailed, RunnerUnavailable
from ollmlx.launch.spec import LaunchSpec
from ollmlx.supervisor.clock import Clock, Tuning
from ollmlx.supervisor.runner.factory import PooledRunner, RunnerFactory
from ollmlx.supervisor.runner.failure import Cause, Remedy, RunnerFailure
from ollmlx.supervisor.scheduling.memory import EvictionCandidate, MemoryLedger, allowance_for, prompt_cache_size
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.supervisor.scheduling.pool_entry import PoolEntry
from ollmlx.supervisor.scheduling.restart import SHOWN_FOR, FailureHistory
from ollmlx.text.quantities import format_size
from ollmlx.types import RunnerInfo, RunnerState

logger = logging.getLogger(__name__)


class EntryObserver(Protocol):
    """Called when the state of an entry has changed. The scheduler implements it."""

    def on_loaded(self, entry: PoolEntry) -> None: ...
    def on_load_failed(self, entry: PoolEntry, error: OllmlxError) -> None: ...
    def on_exit(self, entry: PoolEntry) -> None: ...
    def schedule(self) -> None: ...


@dataclass(eq=False)
class RunnerSet:
    """At most one entry for each launch key. Used on the event loop; only its own tasks wait."""

    _clock: Clock
    _factory: RunnerFactory
    ledger: MemoryLedger
    _tuning: Tuning
    _observer: PoolObserver
    _max_models: int
    entries: dict[str, PoolEntry] = field(default_factory=dict)
    restarts: defaultdict[str, FailureHistory] = field(default_factory=lambda: defaultdict(FailureHistory))
    """By launch key."""

    def __post_init__(self) -> None:
        self.entry_observer: EntryObserver
        self._numbers = itertools.count(1)

    # -- used by the scheduler ---------------------------------------------------------------------------------------

    def eviction_candidates(self, is_idle: Callable[[PoolEntry], bool]) -> list[EvictionCandidate]:
        """Return the entries that hold memory and are not being stopped."""
        sizes = self.ledger.sizes
        return [
            EvictionCandidate(
                entry.key, sizes[entry.id], is_idle(entry), entry.spec.pin, entry.is_loaded, entry.last_used
            )
            for entry in self.entries.values()
            if not entry.stopping
        ]

    def start_load(self, spec: LaunchSpec, after: Iterable[PoolEntry] = ()) -> None:
        """Reserve memory, and load the model once the entries in `after` have exited. The caller has made room."""
        need = spec.estimate.total
        cache = prompt_cache_size(spec.prompt_cache_bytes, self.ledger.left - need)
        entry = PoolEntry(
            id=f"{spec.model.name.short}#{next(self._numbers)}",
            spec=spec,
            allowance=allowance_for(need, cache, self.ledger.budget, self._tuning),
            created_at=self._clock.monotonic(),
            waits_for={each.id for each in after},
            keep_alive=spec.keep_alive,
        )
        self.ledger.reserve(entry.id, entry.allowance.reserved, spec.name)
        self.entries[spec.key] = entry
        logger.debug(
            "%s: %s reserved for a context of %d; %s of %s are left, %d other models have to exit first",
            entry.id, format_size(entry.allowance.reserved), spec.context_length, format_size(self.ledger.left),
            format_size(self.ledger.budget), len(entry.waits_for),
        )  # fmt: skip
        self._allow_start(entry)
        entry.task = asyncio.create_task(self._load(entry), name=f"load {entry.id}")
        entry.task.add_done_callback(lambda _: self._after_load(entry))

    def stop(self, entry: PoolEntry, reason: str) -> None:
        """Stop an entry, loading or loaded, whether or not it has requests."""
        if entry.stopping or self.entries.get(entry.key) is not entry:
            return
        logger.info("stopping %s: %s", entry.id, reason)
        entry.stopping = True
        self.ledger.release_later(entry.id)
        if entry.loaded_at < math.inf:
            self._observer.on_evict(entry.spec.name, reason)
            entry.task = asyncio.create_task(self._stop(entry), name=f"stop {entry.id}")
        elif entry.task is not None:
            entry.task.cancel()

    def infos(self) -> list[RunnerInfo]:
        """Return all entries, and the models that failed and are not loaded again."""
        since = self._clock.monotonic() - SHOWN_FOR
        running = [entry.info(self._clock, self.restarts[entry.key].restarts) for entry in self.entries.values()]
        return running + [one.info for one in self.restarts.values() if one.info and one.failed_at >= since]

    # -- loading -----------------------------------------------------------------------------------------------------

    def _allow_start(self, entry: PoolEntry) -> None:
        """Let the process start when its memory is free. Runners that are being stopped count until they exited."""
        started = sum(other.may_start.is_set() for other in self.entries.values() if other is not entry)
        if entry.waits_for or (self._max_models and started >= self._max_models):
            return
        if self.ledger.allocate(entry.id):
            entry.may_start.set()

    async def _load(self, entry: PoolEntry) -> None:
        outcome = "cancelled"
        try:
            await entry.may_start.wait()
            runner = await self._start_or_make_room(entry)
            if entry.stopping:  # decided while the last step of the load was being done
                await runner.stop(self._tuning.stop_timeout)
                return
            outcome = "ok"
        except asyncio.CancelledError:
            if not entry.stopping:
                raise
        except OllmlxError as error:
            outcome = "failed"
            self._load_failed(entry, error)
        except Exception as error:
            outcome = "failed"
            logger.exception("loading %s met a bug", entry.id)
            self._load_failed(entry, RunnerFailed(f"cannot load {entry.spec.name}: {error!r}", code="RUN001"))
        finally:
            seconds = self._clock.monotonic() - entry.created_at
            self._observer.on_load(entry.spec.name, entry.spec.backend, seconds, outcome)
        if outcome == "ok":
            entry.loaded_at = self._clock.monotonic()
            entry.mark_used(entry.loaded_at)
            self.restarts[entry.key].info = None
            logger.info("%s is ready after %.2f s", entry.id, entry.loaded_at - entry.created_at)
            self.entry_observer.on_loaded(entry)

    def _after_load(self, entry: PoolEntry) -> None:
        # A callback of the task and no part of it: a load that is cancelled before its first step never runs.
        if entry.loaded_at == math.inf:
            self._remove(entry)
            self.entry_observer.schedule()

    async def _start_or_make_room(self, entry: PoolEntry) -> PooledRunner:
        """Start the runner. When memory runs out, stop the idle models and start once more."""
        try:
            return await self._start(entry)
        except OllmlxError as error:
            failure = entry.runner.failure if entry.runner is not None else None
            stopped = self._stop_idle(entry) if failure is not None and failure.remedy is Remedy.MAKE_ROOM else []
            if not stopped:
                raise
            logger.warning("%s; trying once more without %d other models", error.message, len(stopped))
        for other in stopped:
            await other.exited.wait()
        return await self._start(entry)

    async def _start(self, entry: PoolEntry) -> PooledRunner:
        runner = self._factory.make(entry.spec, entry.id, entry.allowance)
        runner.on_exit = lambda failure: self._on_exit(entry, failure)
        runner.on_change = self.entry_observer.schedule
        entry.runner = runner
        try:
            await runner.start()
        except OSError as error:  # no process, socket or descriptor left: not the model's fault
            raise RunnerUnavailable(
                f"cannot start a runner for {entry.spec.name}: {error.strerror or error}", code="RUN001", retry_after=1
            ) from error
        return runner

    def _load_failed(self, entry: PoolEntry, error: OllmlxError) -> None:
        logger.error("%s", error.message)
        failure = entry.runner.failure if entry.runner is not None else None
        if failure is not None:
            self._record(entry, failure, error.message)
        self._remove(entry)
        self.entry_observer.on_load_failed(entry, error)

    # -- the end of a runner -----------------------------------------------------------------------------------------

    async def _stop(self, entry: PoolEntry) -> None:
        assert entry.runner is not None
        await entry.runner.stop(self._tuning.stop_timeout)
        self._remove(entry)
        self.entry_observer.schedule()

    def _stop_idle(self, spared: PoolEntry) -> list[PoolEntry]:
        """Stop every idle model but this one and pinned ones. Returns the stopped ones."""
        victims = [
            other
            for other in self.entries.values()
            if other is not spared and other.is_loaded and other.is_idle and not other.stopping and not other.spec.pin
        ]
        for victim in victims:
            self.stop(victim, "memory")
        return victims

    def _on_exit(self, entry: PoolEntry, failure: RunnerFailure) -> None:
        self._record(entry, failure, failure.sentence(entry.spec.name))
        self._observer.on_restart(entry.spec.name, failure.label or failure.cause.value)
        self._remove(entry)
        if failure.cause is Cause.EXIT and failure.remedy is Remedy.MAKE_ROOM:
            self._stop_idle(entry)
        self.entry_observer.on_exit(entry)

    def _record(self, entry: PoolEntry, failure: RunnerFailure, message: str) -> None:
        history = self.restarts[entry.key]
        history.info = entry.info(self._clock, history.restarts).model_copy(
            update={
                "state": RunnerState.FAILED, "pid": None, "active": 0, "reserved": 0, "memory": 0, "expires_at": None,
                "last_error": message, "last_code": failure.code, "last_words": failure.output,
            }
        )  # fmt: skip
        now = self._clock.monotonic()
        loaded = entry.loaded_at < math.inf
        history.add(
            now,
            failure,
            # An idle runner that is killed after its trial prompt is no crash loop, either.
            answered=loaded and (entry.answered or entry.is_idle),
            healthy_for=now - entry.loaded_at if loaded else 0.0,
        )

    def _remove(self, entry: PoolEntry) -> None:
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key]
        self.ledger.release(entry.id)
        entry.exited.set()
        for other in self.entries.values():
            other.waits_for.discard(entry.id)
            if not other.may_start.is_set() and not other.stopping:
                self._allow_start(other)
