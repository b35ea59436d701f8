"""The health of one runner, while its model loads and afterwards: probes, trial prompts, hangs and memory limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from ollmlx.errors import OllmlxError, RunnerFailed
from ollmlx.protocol import PROTOCOL_VERSION, Progress
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.process.child import Child
from ollmlx.supervisor.process.tail import OutputTail
from ollmlx.supervisor.runner.client import ConnectionLost, ProtocolViolation, RunnerClient
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.text.quantities import format_duration, format_size
from ollmlx.types import (
    EmbedRequest,
    GenerateRequest,
    InstalledModel,
    Options,
    RerankRequest,
    SpeechRequest,
    StreamRequest,
    TranscribeRequest,
)

logger = logging.getLogger(__name__)
PATIENCE = 5.0
"""Seconds that a probe waits at most; loading and native code may hold the interpreter for a while."""
STRIKES = 2
"""Samples above a memory limit before it counts."""
TRIAL_PROMPT = "Hello"
EXIT_PATIENCE = 1.0
"""Seconds that the exit of a process may come after its connection broke."""


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
    """Decode one token, so that readiness means computing; or compute a vector, a score, or speech; or listen.

    Raises the runner's own error, RunnerFailed for an empty answer, ConnectionLost or ProtocolViolation for a broken
    runner.
    """
    request: StreamRequest
    if "completion" in model.capabilities:
        request = GenerateRequest(
            request_id=request_id, prompt=TRIAL_PROMPT, options=Options(num_predict=1, temperature=0.0)
        )
    elif "rerank" in model.capabilities:
        scored = await client.rerank(
            RerankRequest(request_id=request_id, query=TRIAL_PROMPT, documents=(TRIAL_PROMPT,))
        )
        if len(scored.scores) != 1:
            raise RunnerFailed("it computed no score for a trial document", code="RUN003")
        return
    elif "transcription" in model.capabilities:
        request = TranscribeRequest(request_id=request_id)
    elif "speech" in model.capabilities:
        request = SpeechRequest(request_id=request_id, text=TRIAL_PROMPT, format="pcm")
    else:
        result = await client.embed(EmbedRequest(request_id=request_id, inputs=(TRIAL_PROMPT,)))
        if not result.embeddings or not result.embeddings[0]:
            raise RunnerFailed("it computed no vector for a trial text", code="RUN003")
        return
    async with aclosing(client.generate(request)) as events:
        async for _ in events:  # an end of text as the very first token has no text, and is a decoded token
            pass


class MonitoredRunner(Protocol):
    """The part of a runner that its monitor uses.

    The monitor sets the last four attributes, and calls `on_change` when one of the last two has changed.
    """

    id: str
    client: RunnerClient
    allowance: Allowance
    active_requests: int
    on_change: Callable[[], None]
    status: Progress | None
    """The last status that the runner reported."""
    memory: int
    """Bytes that it used at the last probe."""
    throttled: bool
    """Stuck, or above the soft limit: the pool gives it no new requests."""
    needs_replacement: bool
    """Idle, and stuck or still above the soft limit after a trim: only a fresh process is of use."""

    def kill(self, cause: Cause, text: str) -> None: ...


@dataclass(eq=False)
class HealthMonitor:
    """Watches one runner from its first answer to its exit. `memory_use` returns what its process uses, in bytes.

    A runner hangs when it has work and makes no progress for `hang_timeout` seconds. After half of that time it gets a
    trial prompt; an answer extends the limit by half, once, because work that stands still beside an answered trial
    prompt is stuck, too.
    """

    runner: MonitoredRunner
    model: InstalledModel
    clock: Clock
    memory_use: Callable[[], int | None]
    hang_timeout: float
    probe_interval: float
    _trial: asyncio.Task[None] | None = None
    _trial_at_last_look: bool = False
    """A trial prompt was under way: progress since then may be its own, and not that of the work."""
    _trial_answered: bool = False
    """A trial prompt was answered during the present silence."""
    _above_soft: int = 0
    _above_hard: int = 0

    def __post_init__(self) -> None:
        self._progress = ProgressClock(gap=self.probe_interval + PATIENCE + 5.0)

    async def run(self) -> None:
        """Watch until cancelled."""
        self._progress.restart(self.clock.monotonic())
        try:
            while True:
                await self.clock.sleep(self.probe_interval)
                status = await self.probe(min(PATIENCE, max(0.2, self.hang_timeout / 4)))
                self._check_progress(status if isinstance(status, str) else None)
                await self._check_memory()
        finally:
            if self._trial is not None:
                self._trial.cancel()
                await asyncio.wait([self._trial])

    async def probe(self, timeout: float) -> Progress | str:
        """Ask the runner for its status. Returns the status, or a sentence that says why there is none."""
        try:
            status = self.runner.status = await self.runner.client.status(timeout)
        except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
            logger.debug("probe of %s failed: %s", self.runner.id, failure)
            return str(failure)
        logger.debug(
            "probe of %s: %s, progress %d, active %d",
            self.runner.id, status.state, status.progress, status.active,
        )  # fmt: skip
        return status

    def _check_progress(self, failure: str | None) -> None:
        now = self.clock.monotonic()
        # A request whose client does not read its answer is no work that the runner should get on with.
        waiting = self.runner.active_requests - self.runner.client.unread
        if waiting <= 0 and failure is None:
            self._progress.restart(now)
            self._trial_answered = False
            return
        status = self.runner.status
        sign = (status.progress if status is not None else 0, failure is None or waiting > 0)
        silence = self._progress.rebase(now, sign) if self._trial_at_last_look else self._progress.look(now, sign)
        self._trial_at_last_look = self._trial is not None
        self._trial_answered = self._trial_answered and silence > 0
        if silence >= self.hang_timeout * (1.5 if self._trial_answered else 1.0):
            why = f"; its status: {failure}" if failure else ""
            self.runner.kill(Cause.HANG, f"made no progress for {format_duration(round(silence, 1))}{why}")
        elif silence >= self.hang_timeout / 2 and failure is None and self._trial is None and not self._trial_answered:
            logger.warning(
                "%s has work and made no progress for %.1f s: sending a trial prompt", self.runner.id, silence
            )
            self._trial_at_last_look = True
            self._trial = asyncio.create_task(self._run_trial(), name=f"trial prompt {self.runner.id}")

    async def _run_trial(self) -> None:
        try:
            await send_trial_prompt(self.runner.client, self.model, f"trial-{self.runner.id}")
        except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
            logger.warning("trial prompt of %s failed: %s", self.runner.id, failure)
        else:
            logger.info("%s answered a trial prompt", self.runner.id)
            self._trial_answered = True
        finally:
            self._trial = None

    async def _check_memory(self) -> None:
        runner, status = self.runner, self.runner.status
        reported = status.memory_active + status.memory_cache if status is not None else 0
        runner.memory = max(self.memory_use() or 0, reported)
        self._above_hard = self._above_hard + 1 if runner.memory > runner.allowance.hard else 0
        self._above_soft = self._above_soft + 1 if runner.memory > runner.allowance.soft else 0
        if self._above_hard >= STRIKES:
            used, limit = format_size(runner.memory), format_size(runner.allowance.hard)
            runner.kill(Cause.MEMORY, f"used {used}, more than its limit of {limit}, and was ended")
        elif self._above_soft == 1:
            logger.warning(
                "%s uses %s, above its soft limit of %s: no new requests, dropping caches",
                runner.id, format_size(runner.memory), format_size(runner.allowance.soft),
            )  # fmt: skip
            try:
                await runner.client.command("trim", PATIENCE)
            except (ConnectionLost, ProtocolViolation, OllmlxError) as failure:
                logger.warning("%s did not drop its caches: %s", runner.id, failure)
        stuck = status is not None and status.stuck
        throttled = self._above_soft > 0 or stuck
        needs_replacement = (self._above_soft > STRIKES or stuck) and not runner.active_requests
        if (throttled, needs_replacement) != (runner.throttled, runner.needs_replacement):
            runner.throttled, runner.needs_replacement = throttled, needs_replacement
            runner.on_change()


class LoadFailed(Exception):
    """The load failed for a reason that this module found. `error` is what the runner itself answered, if it did."""

    def __init__(self, cause: Cause, text: str, error: Exception | None = None) -> None:
        super().__init__(text)
        self.cause = cause
        self.text = text
        self.error = error


@dataclass
class ModelLoad:
    """Waits for one child process to load its model. Progress and output count, not elapsed time.

    `timeout`: seconds without progress after which the load has failed.
    """

    runner: MonitoredRunner
    health: HealthMonitor
    tail: OutputTail
    child: Child
    clock: Clock
    timeout: float

    def __post_init__(self) -> None:
        self._probe_timeout = min(PATIENCE, self.timeout / 2)
        self._progress = ProgressClock(gap=self._probe_timeout + 5.0)

    async def run(self, model: InstalledModel) -> None:
        """Return when the model is loaded and has answered a trial prompt.

        Raises LoadFailed, or ConnectionLost when the process has exited.
        """
        pause = 0.01
        while not await self._is_ready():
            await self.clock.sleep(pause)
            pause = min(pause * 1.1, 0.25, self.timeout / 8)  # so at most a tenth of the load is waited away
        id = self.runner.id
        logger.debug("%s is loaded: sending a trial prompt", id)
        began = self.clock.monotonic()
        trial = asyncio.create_task(send_trial_prompt(self.runner.client, model, f"trial-{id}"))
        try:
            while not (await asyncio.wait([trial], timeout=min(0.5, self.timeout / 8)))[0]:
                await self._is_ready()
            trial.result()
        except (OllmlxError, ConnectionLost, ProtocolViolation) as failure:
            if isinstance(failure, ConnectionLost) and await self.child.wait(EXIT_PATIENCE):
                raise  # the exit status says more than the broken connection
            text = f"could not answer a trial prompt: {failure}"
            raise LoadFailed(Cause.TRIAL_PROMPT, text, failure) from failure
        finally:
            trial.cancel()
            await asyncio.wait([trial])
        logger.debug("%s answered it after %.3f s", id, self.clock.monotonic() - began)

    async def _is_ready(self) -> bool:
        """Probe once. Raises LoadFailed for a runner that says so, or that makes no progress."""
        seen = await self.health.probe(self._probe_timeout)
        if isinstance(seen, Progress):
            if seen.protocol != PROTOCOL_VERSION:
                text = f"speaks Runner Protocol {seen.protocol}, this daemon speaks {PROTOCOL_VERSION}"
                raise LoadFailed(Cause.PROTOCOL, text)
            if seen.state == "failed":
                raise LoadFailed(Cause.EXIT, f"could not load the model: {seen.error or 'it does not say why'}")
        status = self.runner.status
        sign = (status.progress, status.load_fraction, status.state) if status is not None else None
        silence = self._progress.look(self.clock.monotonic(), (sign, self.tail.total))
        if silence >= self.timeout:
            why = f" ({seen})" if isinstance(seen, str) else ""
            raise LoadFailed(Cause.STALL, f"made no progress for {format_duration(self.timeout)}{why}")
        return isinstance(seen, Progress) and seen.state == "ready"
