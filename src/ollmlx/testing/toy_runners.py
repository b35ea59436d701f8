"""A pool's workshop without processes: runners are objects whose load, answers and death a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ollmlx.errors import Busy, OllmlxError, RunnerFailed
from ollmlx.launch.spec import LaunchSpec
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import Progress, TokenizeRequest, Tokens
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.process.exit_status import Remedy
from ollmlx.supervisor.runner.client import Exchange
from ollmlx.supervisor.runner.failure import Cause, RunnerFailure
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.testing.fake.store import fake_model
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, GenerateRequest, MemoryEstimate, RunnerState, Text

Answering = Callable[["ToyRunner", GenerateRequest], AsyncIterator[Event]]


def toy_launch(name: str = "parrot", size: int = 10, **fields: Any) -> LaunchSpec:
    """A launch that nothing could execute. `size` is the estimate in bytes; `fields` replace the Launch's own."""
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


def death(cause: Cause = Cause.SIGNAL, remedy: Remedy = Remedy.RETRY, *, loading: bool = False) -> RunnerFailure:
    """An end as a post-mortem would tell it."""
    return RunnerFailure(cause, "was killed by SIGSEGV", None, (), remedy, loading, "SIGSEGV")


class ToyRunner:
    """Implements `ollmlx.supervisor.runner.factory.PooledRunner`."""

    def __init__(self, workshop: ToyRunnerFactory, launch: LaunchSpec, id: str, allowance: Allowance) -> None:
        self.id = id
        self.launch = launch
        self.allowance = allowance
        self.state = RunnerState.STARTING
        self.working = 0
        self.death: RunnerFailure | None = None
        self.on_death: Callable[[RunnerFailure], None] = lambda death: None
        self.on_change: Callable[[], None] = lambda: None
        self.pid: int | None = None
        self.status: Progress | None = None
        self.throttled = False
        self.bloated = False
        self.memory = 0
        self.working_when_stopped: int | None = None
        self._workshop = workshop
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def parallel(self) -> int:
        return max(1, self.launch.parallel)

    @property
    def loading(self) -> bool:
        """It waits for the test to decide how its load ends."""
        return self.state is RunnerState.STARTING and not self._loaded.done()

    def last_words(self) -> tuple[str, ...]:
        return ()

    # -- what a test decides -----------------------------------------------------------------------------------------

    def finish_loading(self) -> None:
        self._loaded.set_result(None)

    def fail_loading(self, end: RunnerFailure | None = None) -> None:
        self.death = end or death(loading=True)
        self._loaded.set_exception(self.death.error(self.launch.name))

    def die(self, end: RunnerFailure | None = None) -> None:
        """End unasked."""
        self.death = end or death()
        self.state = RunnerState.FAILED
        self._workshop.living.discard(self)
        self.abort(self.death.error(self.launch.name))
        self.on_death(self.death)

    # -- what the pool asks ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._workshop.living.add(self)
        if self._workshop.instant:
            self.finish_loading()
        try:
            await self._loaded
        except BaseException:
            self.state = RunnerState.FAILED
            self._workshop.living.discard(self)
            raise
        self.state = RunnerState.READY

    async def stop(self, grace: float) -> None:
        self.state = RunnerState.STOPPING
        self.working_when_stopped = self.working
        self.abort(Busy("stopping"))
        if self._workshop.stop_seconds:
            await self._workshop.clock.sleep(self._workshop.stop_seconds)
        self._workshop.living.discard(self)

    def abort(self, reason: OllmlxError) -> None:
        if not self._aborted.done():
            self._aborted.set_exception(reason)
            self._aborted.exception()

    async def generate(self, request: GenerateRequest, exchange: Exchange | None = None) -> AsyncIterator[Event]:
        async for event in self._workshop.answer(self, request):
            yield event

    async def aborted(self) -> None:
        """Wait until somebody ends the requests under way; raises why."""
        await asyncio.shield(self._aborted)

    async def embed(self, request: EmbedRequest, exchange: Exchange | None = None) -> EmbedResult:
        return EmbedResult(embeddings=((1.0,),) * len(request.inputs), prompt_tokens=len(request.inputs))

    async def tokenize(
        self, request: TokenizeRequest, exchange: Exchange | None = None, request_id: str = ""
    ) -> Tokens:
        return Tokens(tokens=(1,))

    async def detokenize(self, tokens: Tokens) -> str:
        return "x"


async def echo(runner: ToyRunner, request: GenerateRequest) -> AsyncIterator[Event]:
    """The usual answer: the prompt."""
    if runner.state is not RunnerState.READY:
        raise RunnerFailed("not ready")
    yield Text(text=request.prompt or "")
    yield Done()


class ToyRunnerFactory:
    """Implements `ollmlx.supervisor.runner.factory.RunnerFactory`. `instant`: runners are ready at once."""

    def __init__(self, clock: Clock, *, instant: bool = True, stop_seconds: float = 0.0) -> None:
        self.clock = clock
        self.instant = instant
        self.stop_seconds = stop_seconds
        self.answer: Answering = echo
        self.made: list[ToyRunner] = []
        self.living: set[ToyRunner] = set()
        self.state = "new"
        self.folder = Path("/nonexistent")

    async def open(self) -> None:
        self.state = "open"

    def make(self, launch: LaunchSpec, id: str, allowance: Allowance) -> ToyRunner:
        self.made.append(ToyRunner(self, launch, id, allowance))
        return self.made[-1]

    def guarded(self, pid: int) -> AbstractContextManager[None]:
        return nullcontext()

    async def close(self) -> None:
        self.state = "closed"
