"""One model's place in the pool: from the promise of memory until its process is gone."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ollmlx.launch.spec import LaunchSpec
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.runner.factory import PooledRunner
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.types import RunnerInfo, RunnerState

ALIVE = (RunnerState.READY, RunnerState.BUSY)


@dataclass(eq=False, slots=True)
class Place:
    """Times are monotonic seconds. `after` are the places that have to be gone before this one's process may start."""

    id: str
    launch: LaunchSpec
    allowance: Allowance
    began: float
    after: set[str] = field(default_factory=set)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    runner: PooledRunner | None = None
    task: asyncio.Task[None] | None = None
    """The load, later the end."""
    ready_at: float = math.inf
    leases: int = 0
    last_used: float = -math.inf
    keep_alive: float = 300.0
    told: bool = False
    """A request said how long it stays. Those that say nothing leave it at that."""
    expires: float = math.inf
    leaving: bool = False
    unwanted: bool = False
    """Let go as soon as nobody uses it."""

    @property
    def key(self) -> str:
        return self.launch.key

    @property
    def settled(self) -> bool:
        """Loaded, and its process lives."""
        return self.ready_at < math.inf and self.runner is not None and self.runner.state in ALIVE

    @property
    def idle(self) -> bool:
        return self.leases == 0

    @property
    def roomy(self) -> bool:
        """Its runner can serve one more request."""
        if not self.settled or self.leaving or self.runner is None:
            return False
        return not self.runner.throttled and self.leases < self.runner.parallel

    @property
    def free(self) -> bool:
        """It takes new requests, and can serve one more."""
        return self.roomy and not self.unwanted

    def join(self, launch: LaunchSpec) -> None:
        """A request for the same weights under another name: a name that is pinned pins what is loaded."""
        if launch.pin and not self.launch.pin:
            self.launch = replace(self.launch, pin=True)

    def stay(self, asked: float | None, usual: float) -> None:
        """A request gets it that asked for `asked` seconds, or for nothing: then `usual` counts until somebody does."""
        if asked is not None:
            self.keep_alive, self.told = asked, True
        elif not self.told:
            self.keep_alive = usual

    def used(self, now: float) -> None:
        """From now on its time to live counts."""
        self.last_used = now
        self.expires = math.inf if self.launch.pin else now + self.keep_alive

    def info(self, clock: Clock, restarts: int) -> RunnerInfo:
        """As `ps` shows it."""
        runner, now = self.runner, clock.monotonic()
        status = runner.status if runner is not None else None
        remaining = self._remaining(now)
        return RunnerInfo(
            id=self.id,
            model=self.launch.model,
            backend=self.launch.backend,
            state=self._state(),
            pid=runner.pid if runner is not None else None,
            context_length=(status.context_length if status is not None else 0) or self.launch.context_length,
            parallel=runner.parallel if runner is not None else max(1, self.launch.parallel),
            active=self.leases,
            reserved=self.allowance.reserved,
            memory=(runner.memory if runner is not None else 0) or self.launch.estimate.total,
            memory_gpu=status.memory_active if status is not None and status.device != "cpu" else 0,
            started_at=clock.now() - timedelta(seconds=now - self.began),
            expires_at=None if math.isinf(remaining) else clock.now() + timedelta(seconds=remaining),
            restarts=restarts,
            last_words=runner.last_words() if runner is not None else (),
            device=status.device if status is not None else "",
            notes=status.notes if status is not None else (),
            cached_tokens=status.cached_tokens_total if status is not None else 0,
            prompt_tokens=status.prompt_tokens_total if status is not None else 0,
        )

    def _remaining(self, now: float) -> float:
        """Seconds it will stay if nobody asks for it. In use, or loading, these have not begun to run."""
        if self.leaving or self.unwanted:
            return 0.0
        if self.launch.pin:
            return math.inf
        return self.expires - now if self.idle and self.settled else self.keep_alive

    def _state(self) -> RunnerState:
        if self.leaving:
            return RunnerState.STOPPING
        if self.runner is not None and self.runner.state is RunnerState.FAILED:
            return RunnerState.FAILED
        if not self.settled:
            return RunnerState.STARTING
        return RunnerState.READY if self.idle else RunnerState.BUSY
