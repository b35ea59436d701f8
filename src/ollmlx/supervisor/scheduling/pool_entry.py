"""One model in the pool, from the reservation of its memory to the exit of its process."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ollmlx.launch.spec import LaunchSpec
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.runner.factory import PooledRunner
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.types import RunnerInfo, RunnerState


@dataclass(eq=False, slots=True)
class PoolEntry:
    """Times are monotonic seconds. `waits_for` are the ids of the entries that must have exited before this one starts.

    `may_start` is set when the memory is free; `exited` when the process has been reaped.
    """

    id: str
    spec: LaunchSpec
    allowance: Allowance
    created_at: float
    waits_for: set[str] = field(default_factory=set)
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    runner: PooledRunner | None = None
    task: asyncio.Task[None] | None = None
    """The load, later the stop."""
    loaded_at: float = math.inf
    leases: int = 0
    clients: Counter[str] = field(default_factory=Counter)
    """Leases by client."""
    answered: bool = False
    """A request was answered by this runner."""
    last_used: float = -math.inf
    keep_alive: float = 300.0
    keep_alive_requested: bool = False
    """A request named `keep_alive`; the model's default no longer applies."""
    expires: float = math.inf
    stopping: bool = False
    stop_when_idle: bool = False

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def is_loaded(self) -> bool:
        """True when the model is loaded and its process runs."""
        return self.loaded_at < math.inf and self.runner is not None and self.runner.state is RunnerState.READY

    @property
    def is_idle(self) -> bool:
        return self.leases == 0

    @property
    def has_free_slot(self) -> bool:
        """True when the runner can serve one more request."""
        if self.runner is None or not self.is_loaded or self.stopping or self.runner.throttled:
            return False
        return self.leases < self.runner.parallel

    def serves(self, spec: LaunchSpec) -> bool:
        """Return True when the loaded context is long enough for this spec, which has the same key."""
        return self.spec.context_length >= spec.context_length

    def take_slot(self, spec: LaunchSpec) -> None:
        """Count one more request. One under a pinned name pins the loaded weights."""
        assert self.runner is not None
        if spec.pin and not self.spec.pin:
            self.spec = replace(self.spec, pin=True)
        self.leases += 1
        self.runner.active_requests = self.leases

    def release_slot(self, now: float) -> None:
        """Count one request less. The keep-alive time starts again."""
        self.leases -= 1
        if self.runner is not None:
            self.runner.active_requests = self.leases
        self.mark_used(now)

    def mark_used(self, now: float) -> None:
        """Start the keep-alive time at `now`."""
        self.last_used = now
        self.expires = math.inf if self.spec.pin else now + self.keep_alive

    def info(self, clock: Clock, restarts: int) -> RunnerInfo:
        """Return the entry as `ps` shows it."""
        runner, now = self.runner, clock.monotonic()
        status = runner.status if runner else None
        remaining = self._remaining(now)
        return RunnerInfo(
            id=self.id,
            model=self.spec.model,
            backend=self.spec.backend,
            state=self._state(),
            pid=runner.pid if runner else None,
            context_length=(status.context_length if status else 0) or self.spec.context_length,
            parallel=runner.parallel if runner else max(1, self.spec.parallel),
            active=self.leases,
            clients=tuple(sorted(+self.clients)),
            reserved=self.allowance.reserved,
            memory=(runner.memory if runner else 0) or self.spec.estimate.total,
            memory_gpu=status.memory_active if status and status.device != "cpu" else 0,
            started_at=clock.now() - timedelta(seconds=now - self.created_at),
            expires_at=None if math.isinf(remaining) else clock.now() + timedelta(seconds=remaining),
            restarts=restarts,
            last_words=runner.last_output() if runner else (),
            device=status.device if status else "",
            notes=(*([self.spec.why] if self.spec.why else []), *(status.notes if status else ())),
            cached_tokens=status.cached_tokens_total if status else 0,
            prompt_tokens=status.prompt_tokens_total if status else 0,
            pool_tokens=status.pool_tokens if status else 0,
            pool_used=status.pool_used if status else 0,
        )

    def _remaining(self, now: float) -> float:
        """Return the seconds until it expires without further requests. Before a model is idle, they do not run."""
        if self.stopping or self.stop_when_idle:
            return 0.0
        if self.spec.pin:
            return math.inf
        return self.expires - now if self.is_idle and self.is_loaded else self.keep_alive

    def _state(self) -> RunnerState:
        if self.stopping:
            return RunnerState.STOPPING
        if self.runner is not None and self.runner.state is RunnerState.FAILED:
            return RunnerState.FAILED
        if not self.is_loaded:
            return RunnerState.STARTING
        return RunnerState.READY if self.is_idle else RunnerState.BUSY
