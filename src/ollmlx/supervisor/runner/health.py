"""The watch over one loaded runner: probes its status, decides that it hangs, weighs its memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from ollmlx.errors import OllmlxError
from ollmlx.protocol import Progress
from ollmlx.settings import RunnerSettings
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.runner.client import Garbled, RunnerClient, Severed
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.runner.progress import ProgressClock
from ollmlx.supervisor.runner.trial_prompt import sing
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_duration, format_size
from ollmlx.types import InstalledModel

logger = logging.getLogger(__name__)
PATIENCE = 5.0
"""A probe waits this long at most; loading and native code may hold the interpreter for a while."""
STRIKES = 2
"""Samples above a memory limit before it counts."""


class Watched(Protocol):
    """What the vigil needs of a runner."""

    id: str
    client: RunnerClient
    allowance: Allowance
    working: int

    def condemn(self, cause: Cause, text: str) -> None: ...
    def changed(self) -> None: ...


class HealthMonitor:
    """One per runner, from its first answer to its end. Probes of a busy and of an idle runner are the same."""

    def __init__(
        self,
        runner: Watched,
        model: InstalledModel,
        settings: RunnerSettings,
        tuning: Tuning,
        clock: Clock,
        footprint: Callable[[], int | None],
    ) -> None:
        self._runner = runner
        self._model = model
        self._settings = settings
        self._tuning = tuning
        self._clock = clock
        self._footprint = footprint
        self._beat = ProgressClock(gap=tuning.probe_interval + PATIENCE + 5.0)
        self._canary: asyncio.Task[None] | None = None
        self._singing = False
        """A trial prompt is under way, or was at the last look: the progress it makes is not the work's."""
        self._answered = False
        """A trial prompt was answered in this silence. That buys time once: work that stands still is stuck."""
        self._above_soft = 0
        self._above_hard = 0
        self.status: Progress | None = None
        self.memory = 0
        self.throttled = False
        self.bloated = False
        """Above the soft limit although it was asked to trim: only a fresh process gives the memory back."""

    async def keep(self) -> None:
        """Watch until cancelled."""
        self._beat.restart(self._clock.monotonic())
        try:
            while True:
                await self._clock.sleep(self._tuning.probe_interval)
                failure = await self._probe()
                self._judge(failure)
                await self._weigh()
        finally:
            if self._canary is not None:
                self._canary.cancel()
                await asyncio.wait([self._canary])

    async def look(self, patience: float = PATIENCE) -> Progress | str:
        """One logged probe: the status, or why there is none."""
        try:
            self.status = await self._runner.client.status(patience)
        except (Severed, Garbled, OllmlxError) as failure:
            logger.debug("probe of %s failed: %s", self._runner.id, failure)
            return str(failure)
        logger.debug(
            "probe of %s: %s, progress %d, active %d",
            self._runner.id, self.status.state, self.status.progress, self.status.active,
        )  # fmt: skip
        return self.status

    async def _probe(self) -> str | None:
        seen = await self.look(min(PATIENCE, max(0.2, self._settings.hang_timeout / 4)))
        return seen if isinstance(seen, str) else None

    def _judge(self, failure: str | None) -> None:
        now = self._clock.monotonic()
        progress = self.status.progress if self.status is not None else 0
        waited_for = self._runner.working - self._runner.client.unread
        if waited_for <= 0 and failure is None:
            self._beat.restart(now)
            self._answered = False
            return
        sign = (progress, failure is None or waited_for > 0)
        silence = self._beat.rebase(now, sign) if self._singing else self._beat.look(now, sign)
        self._singing = self._canary is not None
        self._answered = self._answered and silence > 0
        limit = self._settings.hang_timeout
        if silence >= limit * (1.5 if self._answered else 1.0):
            why = f"; its status: {failure}" if failure else ""
            self._runner.condemn(Cause.HANG, f"made no progress for {format_duration(round(silence, 1))}{why}")
        elif silence >= limit / 2 and failure is None and self._canary is None and not self._answered:
            logger.warning(
                "%s has been silent for %.1f s with work to do: sending a trial prompt", self._runner.id, silence
            )
            self._singing = True
            self._canary = asyncio.create_task(self._try_canary(), name=f"canary {self._runner.id}")

    async def _try_canary(self) -> None:
        try:
            await sing(self._runner.client, self._model, f"canary-{self._runner.id}")
        except (Severed, Garbled, OllmlxError) as failure:
            logger.warning("trial prompt of %s failed: %s", self._runner.id, failure)
        else:
            logger.info("%s answered a trial prompt", self._runner.id)
            self._answered = True
        finally:
            self._canary = None

    async def _weigh(self) -> None:
        status, allowance = self.status, self._runner.allowance
        reported = status.memory_active + status.memory_cache if status is not None else 0
        self.memory = max(self._footprint() or 0, reported)
        self._above_hard = self._above_hard + 1 if self.memory > allowance.hard else 0
        self._above_soft = self._above_soft + 1 if self.memory > allowance.soft else 0
        if self._above_hard >= STRIKES:
            self._runner.condemn(
                Cause.MEMORY,
                f"used {format_size(self.memory)}, more than its limit of {format_size(allowance.hard)}, and was ended",
            )
        elif self._above_soft == 1:
            logger.warning(
                "%s uses %s, above its soft limit of %s: no new requests, dropping caches",
                self._runner.id, format_size(self.memory), format_size(allowance.soft),
            )  # fmt: skip
            await self._trim()
        bloated = self._above_soft > STRIKES and not self._runner.working
        if (self._above_soft > 0, bloated) != (self.throttled, self.bloated):
            self.throttled, self.bloated = self._above_soft > 0, bloated
            self._runner.changed()

    async def _trim(self) -> None:
        try:
            await self._runner.client.command("trim", PATIENCE)
        except (Severed, Garbled, OllmlxError) as failure:
            logger.warning("%s did not drop its caches: %s", self._runner.id, failure)
