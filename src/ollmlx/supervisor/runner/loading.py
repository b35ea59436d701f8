"""The load of one model, watched from the first status probe to the answer of a trial prompt."""

from __future__ import annotations

import asyncio
import logging

from ollmlx.errors import OllmlxError
from ollmlx.protocol import PROTOCOL_VERSION, Progress
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.process.child import Child
from ollmlx.supervisor.process.tail import OutputTail
from ollmlx.supervisor.runner.client import ConnectionLost, ProtocolViolation, RunnerClient
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.runner.health import PATIENCE, HealthMonitor, ProgressClock, send_trial_prompt
from ollmlx.text.quantities import format_duration
from ollmlx.types import InstalledModel

logger = logging.getLogger(__name__)
EXIT_PATIENCE = 1.0
"""Seconds that the exit of a process may come after its connection broke."""


class LoadFailed(Exception):
    """The load failed for a reason that this module found. `error` is what the runner itself answered, if it did."""

    def __init__(self, cause: Cause, text: str, error: Exception | None = None) -> None:
        super().__init__(text)
        self.cause = cause
        self.text = text
        self.error = error


class ModelLoad:
    """Waits for one child process to load its model. Progress and output count, not elapsed time."""

    def __init__(
        self, client: RunnerClient, health: HealthMonitor, tail: OutputTail, child: Child, clock: Clock, timeout: float
    ) -> None:
        self._client = client
        self._health = health
        self._tail = tail
        self._child = child
        self._clock = clock
        self._timeout = timeout
        self._probe_timeout = min(PATIENCE, timeout / 2)
        self._progress = ProgressClock(gap=self._probe_timeout + 5.0)

    async def run(self, model: InstalledModel, id: str) -> None:
        """Return when the model is loaded and has answered a trial prompt.

        Raises LoadFailed, or ConnectionLost when the process has exited.
        """
        pause = 0.01
        while not await self._is_ready():
            await self._clock.sleep(pause)
            pause = min(pause * 1.5, 0.25, self._timeout / 8)
        logger.debug("%s is loaded: sending a trial prompt", id)
        began = self._clock.monotonic()
        trial = asyncio.create_task(send_trial_prompt(self._client, model, f"trial-{id}"))
        try:
            while not (await asyncio.wait([trial], timeout=min(0.5, self._timeout / 8)))[0]:
                await self._is_ready()
            trial.result()
        except (OllmlxError, ConnectionLost, ProtocolViolation) as failure:
            if isinstance(failure, ConnectionLost) and await self._child.wait(EXIT_PATIENCE):
                raise  # the exit status says more than the broken connection
            text = f"could not answer a trial prompt: {failure}"
            raise LoadFailed(Cause.TRIAL_PROMPT, text, failure) from failure
        finally:
            trial.cancel()
            await asyncio.wait([trial])
        logger.debug("%s answered it after %.3f s", id, self._clock.monotonic() - began)

    async def _is_ready(self) -> bool:
        """Probe once. Raises LoadFailed for a runner that says so, or that makes no progress."""
        seen = await self._health.probe(self._probe_timeout)
        if isinstance(seen, Progress):
            if seen.protocol != PROTOCOL_VERSION:
                text = f"speaks Runner Protocol {seen.protocol}, this daemon speaks {PROTOCOL_VERSION}"
                raise LoadFailed(Cause.PROTOCOL, text)
            if seen.state == "failed":
                raise LoadFailed(Cause.EXIT, f"could not load the model: {seen.error or 'it does not say why'}")
        status = self._health.status
        sign = (status.progress, status.load_fraction, status.state) if status is not None else None
        silence = self._progress.look(self._clock.monotonic(), (sign, self._tail.total))
        if silence >= self._timeout:
            why = f" ({seen})" if isinstance(seen, str) else ""
            raise LoadFailed(Cause.STALL, f"made no progress for {format_duration(self._timeout)}{why}")
        return isinstance(seen, Progress) and seen.state == "ready"
