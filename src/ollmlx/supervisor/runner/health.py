"""The health of one loaded runner: status probes, trial prompts, hang detection and memory limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from ollmlx.errors import OllmlxError, RunnerFailed
from ollmlx.protocol import Progress
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.runner.client import ConnectionLost, ProtocolViolation, RunnerClient
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.text.quantities import format_duration, format_size
from ollmlx.types import EmbedRequest, GenerateRequest, InstalledModel, Options

logger = logging.getLogger(__name__)
PATIENCE = 5.0
"""Seconds that a probe waits at most; loading and native code may hold the interpreter for a while."""
STRIKES = 2
"""Samples above a memory limit before it counts."""
TRIAL_PROMPT = "Hello"


@dataclass(slots=True)
class ProgressClock:
    """Seconds since the last sign of progress, on a monotonic clock that the caller reads.

    Any change of the sign (tokens, prefill chunks, load steps, lines of output) is progress. After `gap`
    seconds without a look, because this process was suspended, the measurement starts again: a gap in our own polling
    does not count as silence.
    """

    gap: float
    _sign: object = None
    _since: float = 0.0
    _looked: float | None = None

    def restart(self, now: float) -> None:
        """Start the measurement at `now`."""
        self._since = self._looked = now

    def rebase(self, now: float, sign: object) -> float:
        """As `look`, but a new sign does not count as progress. Returns the seconds of silence."""
        self._sign = sign
        return self.look(now, sign)

    def look(self, now: float, sign: object) -> float:
        """Compare the sign with the last one. Returns the seconds of silence."""
        suspended = self._looked is not None and now - self._looked > self.gap
        if self._looked is None or suspended or sign != self._sign:
            self._since = now
            self._sign = sign
        self._looked = now
        return now - self._since


async def send_trial_prompt(client: RunnerClient, model: InstalledModel, request_id: str) -> None:
    """Decode one token (or compute one vector, for a model that only embeds), so that readiness means computing.

    Raises the runner's own error, RunnerFailed for an empty answer, ConnectionLost or ProtocolViolation for a broken
    runner.
    """
    if "completion" not in model.capabilities:
        result = await client.embed(EmbedRequest(request_id=request_id, inputs=(TRIAL_PROMPT,)))
        if not result.embeddings or not result.embeddings[0]:
            raise RunnerFailed("it computed no vector for a trial text", code="RUN003")
        return
    options = Options(num_predict=1, temperature=0.0)
    request = GenerateRequest(request_id=request_id, prompt=TRIAL_PROMPT, options=options)
    async with aclosing(client.generate(request)) as events:  # type: ignore[type-var]
        async for _ in events:  # an end of text as the very first token has no text, and is a decoded token
            pass


class MonitoredRunner(Protocol):
    """The part of a runner that its monitor uses."""

    id: str
    client: RunnerClient
    allowance: Allowance
    active_requests: int

    def kill(self, cause: Cause, text: str) -> None: ...
    def changed(self) -> None: ...


class HealthMonitor:
    """Watches one runner from its first answer to its exit. `memory_use` returns what its process uses, in bytes.

    A runner hangs when it has work and makes no progress for `hang_timeout` seconds. After half of that time it gets a
    trial prompt; an answer extends the limit by half, once, because work that stands still beside an answered trial
    prompt is stuck, too.
    """

    def __init__(
        self, runner: MonitoredRunner, model: InstalledModel, clock: Clock, memory_use: Callable[[], int | None],
        *, hang_timeout: float, probe_interval: float,
    ) -> None:  # fmt: skip
        self._runner = runner
        self._model = model
        self._clock = clock
        self._memory_use = memory_use
        self._hang_timeout = hang_timeout
        self._probe_interval = probe_interval
        self._progress = ProgressClock(gap=probe_interval + PATIENCE + 5.0)
        self._trial: asyncio.Task[None] | None = None
        self._trial_at_last_look = False
        """A trial prompt was under way: progress since then may be its own, and not that of the work."""
        self._trial_answered = False
        """A trial prompt was answered during the present silence."""
        self._above_soft = 0
        self._above_hard = 0
        self.status: Progress | None = None
        self.memory = 0
        self.throttled = False
        """Above the soft limit: the pool gives it no new requests."""
        self.needs_replacement = False
        """Idle and still above the soft limit after a trim: only a fresh process gives the memory back."""

    async def run(self) -> None:
        """Watch until cancelled."""
        self._progress.restart(self._clock.monotonic())
        try:
            while True:
                await self._clock.sleep(self._probe_interval)
                status = await self.probe(min(PATIENCE, max(0.2, self._hang_timeout / 4)))
                self._check_progress(status if isinstance(status, str) else None)
                await self._check_memory()
        finally:
            if self._trial is not None:
                self._trial.cancel()
                await asyncio.wait([self._trial])

    async def probe(self, timeout: float) -> Progress | str:
        """Ask the runner for its status. Returns the status, or a sentence that says why there is none."""
        try:
            self.status = await self._runner.client.status(timeout)
        except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
            logger.debug("probe of %s failed: %s", self._runner.id, failure)
            return str(failure)
        logger.debug(
            "probe of %s: %s, progress %d, active %d",
            self._runner.id, self.status.state, self.status.progress, self.status.active,
        )  # fmt: skip
        return self.status

    def _check_progress(self, failure: str | None) -> None:
        now = self._clock.monotonic()
        # A request whose client does not read its answer is no work that the runner should get on with.
        waiting = self._runner.active_requests - self._runner.client.unread
        if waiting <= 0 and failure is None:
            self._progress.restart(now)
            self._trial_answered = False
            return
        sign = (self.status.progress if self.status is not None else 0, failure is None or waiting > 0)
        silence = self._progress.rebase(now, sign) if self._trial_at_last_look else self._progress.look(now, sign)
        self._trial_at_last_look = self._trial is not None
        self._trial_answered = self._trial_answered and silence > 0
        if silence >= self._hang_timeout * (1.5 if self._trial_answered else 1.0):
            why = f"; its status: {failure}" if failure else ""
            self._runner.kill(Cause.HANG, f"made no progress for {format_duration(round(silence, 1))}{why}")
        elif silence >= self._hang_timeout / 2 and failure is None and self._trial is None and not self._trial_answered:
            logger.warning(
                "%s has work and made no progress for %.1f s: sending a trial prompt", self._runner.id, silence
            )
            self._trial_at_last_look = True
            self._trial = asyncio.create_task(self._run_trial(), name=f"trial prompt {self._runner.id}")

    async def _run_trial(self) -> None:
        try:
            await send_trial_prompt(self._runner.client, self._model, f"trial-{self._runner.id}")
        except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
            logger.warning("trial prompt of %s failed: %s", self._runner.id, failure)
        else:
            logger.info("%s answered a trial prompt", self._runner.id)
            self._trial_answered = True
        finally:
            self._trial = None

    async def _check_memory(self) -> None:
        status, allowance = self.status, self._runner.allowance
        reported = status.memory_active + status.memory_cache if status is not None else 0
        self.memory = max(self._memory_use() or 0, reported)
        self._above_hard = self._above_hard + 1 if self.memory > allowance.hard else 0
        self._above_soft = self._above_soft + 1 if self.memory > allowance.soft else 0
        if self._above_hard >= STRIKES:
            used, limit = format_size(self.memory), format_size(allowance.hard)
            self._runner.kill(Cause.MEMORY, f"used {used}, more than its limit of {limit}, and was ended")
        elif self._above_soft == 1:
            logger.warning(
                "%s uses %s, above its soft limit of %s: no new requests, dropping caches",
                self._runner.id, format_size(self.memory), format_size(allowance.soft),
            )  # fmt: skip
            await self._trim()
        throttled = self._above_soft > 0
        needs_replacement = self._above_soft > STRIKES and not self._runner.active_requests
        if (throttled, needs_replacement) != (self.throttled, self.needs_replacement):
            self.throttled, self.needs_replacement = throttled, needs_replacement
            self._runner.changed()

    async def _trim(self) -> None:
        try:
            await self._runner.client.command("trim", PATIENCE)
        except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
            logger.warning("%s did not drop its caches: %s", self._runner.id, failure)
