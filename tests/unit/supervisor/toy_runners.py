"""The supervisor in a test, without processes and without time: toy runners, and a clock that the test moves.

The test decides how the load, the answers and the exit of each runner go.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ollmlx.errors import Busy, OllmlxError, RunnerFailed
from ollmlx.launch.spec import LaunchSpec
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import Progress, TokenizeRequest, Tokens
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.runner.client import RunnerCall
from ollmlx.supervisor.runner.failure import Cause, Remedy, RunnerFailure
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import (
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    MemoryEstimate,
    RerankRequest,
    RerankResult,
    RunnerState,
    StreamRequest,
    Text,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTLE_STEPS = 50
Answering = Callable[["ToyRunner", GenerateRequest], AsyncIterator[Event]]


def toy_spec(name: str = "parrot", size: int = 10, **fields: Any) -> LaunchSpec:
    """Return a launch spec that nothing could execute. `size` is the estimate in bytes; `fields` replace others."""
    return LaunchSpec(
        **{
            "key": name,
            "model": fake_model(name),
            "backend": "toy",
            "command": RunnerCommand(argv=("/nonexistent",)),
            "context_length": 4096,
            "estimate": MemoryEstimate(weights=size, kv_cache=0, overhead=0),
            **fields,
        }
    )


def toy_failure(cause: Cause = Cause.SIGNAL, remedy: Remedy = Remedy.RETRY, *, loading: bool = False) -> RunnerFailure:
    """Return the failure of a runner that was killed by SIGSEGV."""
    return RunnerFailure(cause, "was killed by SIGSEGV", None, (), remedy, loading, "SIGSEGV")


@dataclass(eq=False)
class ToyRunner:
    """Implements `ollmlx.supervisor.runner.factory.PooledRunner`."""

    _factory: ToyRunnerFactory
    spec: LaunchSpec
    id: str
    allowance: Allowance
    state: RunnerState = RunnerState.STARTING
    active_requests: int = 0
    failure: RunnerFailure | None = None
    pid: int | None = None
    status: Progress | None = None
    throttled: bool = False
    needs_replacement: bool = False
    memory: int = 0
    active_when_stopped: int | None = None
    _loaded: asyncio.Future[None] = field(default_factory=asyncio.Future)
    _aborted: asyncio.Future[None] = field(default_factory=asyncio.Future)

    def __post_init__(self) -> None:
        self.on_exit: Callable[[RunnerFailure], None] = lambda failure: None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def parallel(self) -> int:
        return max(1, self.spec.parallel)

    @property
    def loading(self) -> bool:
        """True while it waits for the test to decide how its load ends."""
        return self.state is RunnerState.STARTING and not self._loaded.done()

    @property
    def number(self) -> int:
        """1 for the first runner of its factory."""
        return self._factory.made.index(self) + 1

    def last_output(self) -> tuple[str, ...]:
        return ()

    # -- called by a test --------------------------------------------------------------------------------------------

    def finish_loading(self) -> None:
        self._loaded.set_result(None)

    def fail_loading(self, failure: RunnerFailure | None = None) -> None:
        self.failure = failure or toy_failure(loading=True)
        self._loaded.set_exception(self.failure.error(self.spec.name))

    def crash(self, failure: RunnerFailure | None = None) -> OllmlxError:
        """Exit without being asked. Returns the error of its requests."""
        self.failure = failure or toy_failure()
        error = self.failure.error(self.spec.name)
        self._end()
        self.abort(error)
        self.on_exit(self.failure)
        return error

    # -- called by the pool ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._factory.start_error is not None:
            raise self._factory.start_error
        self._factory.running.add(self)
        if self._factory.instant:
            self.finish_loading()
        try:
            await self._loaded
        except BaseException:
            self._end()
            raise
        self.state = RunnerState.READY

    async def stop(self, grace: float) -> None:
        self.state = RunnerState.STOPPING
        self.active_when_stopped = self.active_requests
        self.abort(Busy("stopping"))
        if self._factory.stop_seconds:
            await self._factory.clock.sleep(self._factory.stop_seconds)
        self._factory.running.discard(self)

    def abort(self, reason: OllmlxError) -> None:
        if not self._aborted.done():
            self._aborted.set_exception(reason)
            self._aborted.exception()

    async def generate(self, request: StreamRequest, call: RunnerCall | None = None) -> AsyncGenerator[Event]:
        assert isinstance(request, GenerateRequest)
        async for event in self._factory.answer(self, request):
            yield event

    async def aborted(self) -> None:
        """Wait until the requests under way are ended. Raises the reason."""
        await asyncio.shield(self._aborted)

    async def embed(self, request: EmbedRequest, call: RunnerCall | None = None) -> EmbedResult:
        self._crash_once()
        return EmbedResult(embeddings=((1.0,),) * len(request.inputs), prompt_tokens=len(request.inputs))

    async def rerank(self, request: RerankRequest, call: RunnerCall | None = None) -> RerankResult:
        self._crash_once()
        return RerankResult(scores=(1.0,) * len(request.documents), prompt_tokens=len(request.documents))

    async def tokenize(self, request: TokenizeRequest, call: RunnerCall | None = None, request_id: str = "") -> Tokens:
        self._crash_once()
        return Tokens(tokens=(1,))

    def _end(self) -> None:
        self.state = RunnerState.FAILED
        self._factory.running.discard(self)

    def _crash_once(self) -> None:
        if self.number <= self._factory.crashes:
            raise self.crash()


async def echo(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
    """Answer with the prompt."""
    if runner.state is not RunnerState.READY:
        raise RunnerFailed("not ready")
    yield Text(text=request.prompt or "")
    yield Done()


@dataclass(eq=False)
class ToyRunnerFactory:
    """Implements `ollmlx.supervisor.runner.factory.RunnerFactory`.

    `instant`: runners are ready at once. `crashes`: so many runners crash when they are asked for vectors or tokens.
    `start_error`: raised by every start while it is set.
    """

    clock: Clock
    instant: bool = True
    stop_seconds: float = 0.0
    crashes: int = 0
    start_error: Exception | None = None
    answer: Answering = echo
    made: list[ToyRunner] = field(default_factory=list)
    running: set[ToyRunner] = field(default_factory=set)
    state: str = "new"

    async def open(self) -> None:
        self.state = "open"

    def make(self, spec: LaunchSpec, id: str, allowance: Allowance) -> ToyRunner:
        self.made.append(ToyRunner(self, spec, id, allowance))
        return self.made[-1]

    def guarded(self, pid: int) -> AbstractContextManager[None]:
        return nullcontext()

    async def close(self) -> None:
        self.state = "closed"


async def settle() -> None:
    """Run the event loop until all that needs no time has happened."""
    for _ in range(SETTLE_STEPS):
        await asyncio.sleep(0)


@dataclass(eq=False)
class HandTimer:
    """A callback that can be cancelled before its time."""

    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class HandClock:
    """Implements `ollmlx.supervisor.clock.Clock`; time stands still between two calls of `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, HandTimer]] = []

    def monotonic(self) -> float:
        return self._now

    def now(self) -> datetime:
        return START + timedelta(seconds=self._now)

    def call_later(self, delay: float, callback: Callable[[], None]) -> HandTimer:
        timer = HandTimer(callback)
        heapq.heappush(self._timers, (self._now + delay, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        timer = self.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Move the time forward, and run every timer at its time with all that follows from it."""
        until = self._now + seconds
        await settle()
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self._now = max(self._now, at)
                timer.callback()
                await settle()
        self._now = until
        await settle()
