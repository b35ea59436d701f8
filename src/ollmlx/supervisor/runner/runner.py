"""A runner: one child process with a model in it, from spawn to reaped. `STARTING READY BUSY STOPPING FAILED`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from ollmlx.errors import Busy, OllmlxError, RunnerFailed, RunnerUnavailable, from_kind
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import PROTOCOL_VERSION, Progress, TokenizeRequest, Tokens
from ollmlx.supervisor.process.child import Child, child_environment, spawn
from ollmlx.supervisor.process.exit_status import Remedy, explain
from ollmlx.supervisor.process.orphans import process_id as identity
from ollmlx.supervisor.process.orphans.records import NONCE, Record
from ollmlx.supervisor.process.tail import Tail
from ollmlx.supervisor.runner.client import Exchange, Garbled, RunnerClient, Severed
from ollmlx.supervisor.runner.factory import RunnerResources
from ollmlx.supervisor.runner.failure import Cause, RunnerFailure
from ollmlx.supervisor.runner.health import PATIENCE, HealthMonitor
from ollmlx.supervisor.runner.progress import ProgressClock
from ollmlx.supervisor.runner.trial_prompt import sing
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.text.quantities import format_duration
from ollmlx.types import EmbedRequest, EmbedResult, Event, Failed, GenerateRequest, RunnerState

logger = logging.getLogger(__name__)
ABORT_GRACE = 3.0
"""Seconds between SIGABRT, which makes a hung runner dump its stacks, and SIGKILL."""
T = TypeVar("T")


class Runner:
    """Implements `ollmlx.supervisor.runner.factory.PooledRunner` with a real process."""

    def __init__(self, tools: RunnerResources, launch: LaunchSpec, id: str, allowance: Allowance) -> None:
        self.id = id
        self.launch = launch
        self.allowance = allowance
        self.state = RunnerState.STARTING
        self.working = 0
        self.death: RunnerFailure | None = None
        self.on_death: Callable[[RunnerFailure], None] = lambda death: None
        self.on_change: Callable[[], None] = lambda: None
        self.client: RunnerClient
        self._tools = tools
        self._tail = Tail(id, logging.getLogger("ollmlx.runner"), tools.clock.monotonic)
        self._child: Child | None = None
        self._socket: Path | None = None
        self._verdict: tuple[Cause, str] | None = None
        self._said: str | None = None
        """The line that explained it before it was ended."""
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._vigil = HealthMonitor(self, launch.model, tools.settings.runners, tools.tuning, tools.clock, self._weigh)

    # -- what the pool asks ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    @property
    def status(self) -> Progress | None:
        """The last status it gave."""
        return self._vigil.status

    @property
    def parallel(self) -> int:
        """Requests it serves at once."""
        return max(1, self.launch.parallel or (self.status.parallel if self.status is not None else 1))

    @property
    def throttled(self) -> bool:
        """Too big to be given more work."""
        return self._vigil.throttled

    @property
    def bloated(self) -> bool:
        """Idle, and still too big: to be replaced."""
        return self._vigil.bloated

    @property
    def memory(self) -> int:
        """Bytes it was last seen to use."""
        return self._vigil.memory

    def last_words(self) -> tuple[str, ...]:
        return self._tail.last_words()

    async def start(self) -> None:
        """Spawn, load, decode a first token. Raises OllmlxError; whatever happens, a failed start leaves nothing."""
        try:
            await self._spawn()
            await self._while_alive(self._load())
            self._run(self._vigil.keep(), "vigil")
        except BaseException as error:
            self.state = RunnerState.FAILED
            await asyncio.shield(asyncio.ensure_future(self._clean_up(loading=True)))
            if isinstance(error, OllmlxError) and not isinstance(error, _Died):
                self.death = self.death or RunnerFailure(Cause.EXEC, error.message, remedy=Remedy.NONE, loading=True)
                raise
            if isinstance(error, _Died | Severed | Garbled):
                assert self.death is not None
                raise self.death.error(self.launch.name) from error
            raise
        self.state = RunnerState.READY
        self._tail.settled()
        self._run(self._until_death(), "sentinel")

    async def stop(self, grace: float) -> None:
        """End it: ask, TERM, and KILL after `grace` seconds. Returns when it is reaped; twice is once."""
        if self.state in (RunnerState.STARTING, RunnerState.READY, RunnerState.BUSY):
            self.state = RunnerState.STOPPING
            child = self._child
            if child is not None and not child.exited.is_set():
                await self._persuade(child, grace)
            await self._clean_up(loading=False)
        await self._ended.wait()

    def condemn(self, cause: Cause, text: str) -> None:
        """End it now, for this reason. Requests under way fail with it."""
        if self._verdict is None and self._child is not None and not self._child.exited.is_set():
            logger.error("%s %s: ending it", self.id, text)
            self._verdict = (cause, text)
            self._said = self._tail.cause()
            self._run(self._execute(self._child, cause), "execution")

    def abort(self, reason: OllmlxError) -> None:
        """End every request under way with this reason; the runner lives on."""
        self.client.abort(reason)

    def changed(self) -> None:
        self.on_change()

    # -- what requests ask -------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest, exchange: Exchange | None = None) -> AsyncIterator[Event]:
        """Events up to `Done`. A `Failed` event and every other failure is raised."""
        events = self.client.generate(request, exchange)
        try:
            async for event in events:
                if isinstance(event, Failed):
                    raise from_kind(event.kind, event.message, code=event.code)
                yield event
        except (Severed, Garbled, RunnerUnavailable) as broken:
            raise await self._explain(broken) from broken
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def embed(self, request: EmbedRequest, exchange: Exchange | None = None) -> EmbedResult:
        return await self._guarded(self.client.embed(request, exchange))

    async def tokenize(
        self, request: TokenizeRequest, exchange: Exchange | None = None, request_id: str = ""
    ) -> Tokens:
        return await self._guarded(self.client.tokenize(request, exchange, request_id))

    async def detokenize(self, tokens: Tokens) -> str:
        return await self._guarded(self.client.detokenize(tokens))

    async def _guarded(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except (Severed, Garbled, RunnerUnavailable) as broken:
            raise await self._explain(broken) from broken

    async def _explain(self, broken: Severed | Garbled | RunnerUnavailable) -> OllmlxError:
        """What a broken connection, or a runner that closes, means: almost always that the process has ended, which is
        known a moment later."""
        if isinstance(broken, Garbled):
            self.condemn(Cause.PROTOCOL, f"broke the protocol: {broken}")
        if self.state is RunnerState.STOPPING:
            return Busy(f"the runner of {self.launch.name} is stopping")
        assert self._child is not None
        if self._verdict is not None or await self._child.wait(1.0):
            await self._ended.wait()
        if self.death is not None:
            return self.death.error(self.launch.name)
        return RunnerFailed(f"the runner of {self.launch.name} failed: {broken}", code="RUN002", hint="ollmlx logs")

    # -- life --------------------------------------------------------------------------------------------------------

    async def _spawn(self) -> None:
        tools, launch = self._tools, self.launch
        token, nonce = secrets.token_urlsafe(32), secrets.token_hex(16)
        listener, self._socket = tools.rendezvous.listen()
        self.client = RunnerClient(self._socket, token)
        with listener:  # our copy must go: with it open, a dead runner would hang its clients
            argv = [argument.replace("{fd}", str(listener.fileno())) for argument in launch.command.argv]
            env = {**child_environment(), **launch.command.env, NONCE: nonce}
            folder = tools.rendezvous.folder
            self._child = await spawn(argv, env=env, cwd=folder, fds=[listener.fileno()], tail=self._tail)
        child = self._child
        tools.guard.add(child.pid, child.started)
        tools.records.write(Record(self.id, child.pid, child.started or "", identity.boot(), nonce))
        config = launch.config(
            runner=self.id,
            token=token,
            memory_limit=self.allowance.hard,
            cache_limit=self.allowance.cache_limit,
            prompt_cache=self.allowance.prompt_cache,
        )
        # The guardian knows it by now: only this line lets it begin to allocate.
        child.write(config.__pydantic_serializer__.to_json(config) + b"\n")
        logger.info("%s started as process %d", self.id, child.pid)

    async def _load(self) -> None:
        limit = self._tools.settings.runners.load_timeout
        patience = min(PATIENCE, limit / 2)
        beat = ProgressClock(gap=patience + 5.0)
        pause = 0.01
        while not await self._is_ready(beat, patience):
            await self._tools.clock.sleep(pause)
            pause = min(pause * 1.5, 0.25, limit / 8)
        logger.debug("%s is loaded: sending a trial prompt", self.id)
        began = self._tools.clock.monotonic()
        canary = asyncio.create_task(sing(self.client, self.launch.model, f"canary-{self.id}"))
        try:
            while not (await asyncio.wait([canary], timeout=min(0.5, limit / 8)))[0]:
                await self._is_ready(beat, patience)
            canary.result()
            logger.debug("%s answered it after %.3f s", self.id, self._tools.clock.monotonic() - began)
        except (OllmlxError, Severed, Garbled) as failure:
            assert self._child is not None
            # Almost always the process has ended, which is known a moment later and says more than the connection.
            ended = isinstance(failure, Severed) and await self._child.wait(1.0)
            if not ended and self._verdict is None:
                self._verdict = (Cause.CANARY, f"could not answer a trial prompt: {failure}")
            raise
        finally:
            canary.cancel()
            await asyncio.wait([canary])

    async def _is_ready(self, beat: ProgressClock, patience: float) -> bool:
        seen = await self._vigil.look(patience)
        status = self._vigil.status
        if isinstance(seen, Progress):
            if seen.protocol != PROTOCOL_VERSION:
                text = f"speaks Runner Protocol {seen.protocol}, this daemon speaks {PROTOCOL_VERSION}"
                raise self._refuse(Cause.PROTOCOL, text)
            if seen.state == "failed":
                raise self._refuse(Cause.EXIT, f"could not load the model: {seen.error or 'it does not say why'}")
        sign = (status.progress, status.load_fraction, status.state) if status is not None else None
        silence = beat.look(self._tools.clock.monotonic(), (sign, self._tail.total))
        limit = self._tools.settings.runners.load_timeout
        if silence >= limit:
            why = f" ({seen})" if isinstance(seen, str) else ""
            raise self._refuse(Cause.STALL, f"made no progress for {format_duration(limit)}{why}")
        return isinstance(seen, Progress) and seen.state == "ready"

    def _refuse(self, cause: Cause, text: str) -> _Died:
        self._verdict = (cause, text)
        return _Died(text)

    async def _while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work unless the process ends first."""
        assert self._child is not None
        task = asyncio.ensure_future(work)
        end = asyncio.ensure_future(self._child.exited.wait())
        try:
            await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or (self._child.exited.is_set() and task.exception() is not None):
                raise _Died("ended")
            task.result()
        finally:
            for each in (task, end):
                each.cancel()
            await asyncio.wait([task, end])
            if not task.cancelled():
                task.exception()

    async def _until_death(self) -> None:
        assert self._child is not None
        await self._child.exited.wait()
        if self.state is not RunnerState.STOPPING:
            self.state = RunnerState.FAILED
            await self._clean_up(loading=False)
            assert self.death is not None
            logger.error("%s", self.death.sentence(self.launch.name))
            self.on_death(self.death)

    async def _execute(self, child: Child, cause: Cause) -> None:
        if cause is Cause.HANG:
            child.signal(signal.SIGABRT)
            await child.wait(ABORT_GRACE)
        child.signal(signal.SIGKILL)

    async def _persuade(self, child: Child, grace: float) -> None:
        child.remember_family()
        asked = False
        with suppress(Severed, Garbled, OllmlxError):
            await self.client.command("shutdown", min(1.0, max(grace / 2, 0.05)))
            asked = True
        logger.debug("%s %s", self.id, "was asked to stop" if asked else "does not answer: TERM")
        if asked and await child.wait(grace / 2):
            return
        child.signal(signal.SIGTERM)
        if not await child.wait(grace / 2 if asked else grace):
            logger.warning("%s ignored TERM for %.1f s: killing it", self.id, grace)
            child.signal(signal.SIGKILL)

    async def _clean_up(self, *, loading: bool) -> None:
        """Reap the process, close connections, remove the socket, forget the record. Idempotent."""
        child = self._child
        if child is not None:
            stopping = self.state is RunnerState.STOPPING
            killed_by_us = child.returncode is None
            await child.close()
            logger.debug("%s (process %d) is gone: status %s", self.id, child.pid, child.returncode)
            if not stopping and self.death is None:
                self.death = self._post_mortem(child, loading=loading, killed_by_us=killed_by_us)
            self._tools.guard.remove(child.pid)
            self._tools.records.remove(child.pid)
        if self._socket is not None:
            await self.client.close()
            self._socket.unlink(missing_ok=True)
        await self._stop_tasks()
        self._ended.set()

    def _post_mortem(self, child: Child, *, loading: bool, killed_by_us: bool) -> RunnerFailure:
        words = self._tail.last_words()
        if self._verdict is not None:
            cause, text = self._verdict
            # What a hung one says at SIGABRT is where it hangs: stacks for the log, and no explanation.
            said = {Cause.HANG: self._said, Cause.STALL: self._tail.cause()}.get(cause)
            remedy = Remedy.NONE if cause is Cause.PROTOCOL and loading else Remedy.RETRY
            return RunnerFailure(cause, text, said, words, remedy, loading)
        if killed_by_us:
            return RunnerFailure(Cause.PROTOCOL, "broke the protocol", None, words, Remedy.RETRY, loading)
        assert child.returncode is not None
        meaning = explain(child.returncode)
        cause = Cause.SIGNAL if child.returncode < 0 else Cause.EXIT
        return RunnerFailure(cause, meaning.text, self._tail.cause(), words, meaning.remedy, loading, meaning.label)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        # In a context of its own: what it logs is about the runner, not about the request that happens to load it.
        task = asyncio.create_task(work, name=f"{name} {self.id}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _weigh(self) -> int | None:
        return self._tools.footprint(self._child.pid) if self._child is not None else None


class _Died(RunnerFailed):
    """Loading ended because the process did, or has to."""
