"""A runner: one child process with a model in it, from spawn to reaping. `STARTING READY STOPPING FAILED`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ollmlx.errors import Busy, OllmlxError, RunnerFailed, RunnerUnavailable
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.storekit.files import link_or_copy, storage_errors
from ollmlx.supervisor.chores import keep_running
from ollmlx.supervisor.clock import Clock, Tuning
from ollmlx.supervisor.machine import process_memory
from ollmlx.supervisor.process.child import Child, Guardian, child_environment, spawn
from ollmlx.supervisor.process.guardian import boot_id
from ollmlx.supervisor.process.state_folder import NONCE, RunnerRecord, RunnerRecords, SocketDir
from ollmlx.supervisor.process.tail import OutputTail
from ollmlx.supervisor.runner.client import ConnectionLost, ProtocolViolation, RunnerCall, RunnerClient
from ollmlx.supervisor.runner.failure import Cause, Remedy, RunnerFailure
from ollmlx.supervisor.runner.health import EXIT_PATIENCE, HealthMonitor, LoadFailed, ModelLoad
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.types import (
    EmbedRequest,
    EmbedResult,
    Event,
    RerankRequest,
    RerankResult,
    RunnerState,
    StreamRequest,
    TranscribeRequest,
)

logger = logging.getLogger(__name__)
ABORT_GRACE = 3.0
"""Seconds between SIGABRT, which makes a hung runner dump its stacks, and SIGKILL."""
T = TypeVar("T")


@dataclass(slots=True)
class RunnerResources:
    """The objects and numbers that all runners of a daemon share. Times in seconds."""

    clock: Clock
    socket_dir: SocketDir
    guardian: Guardian
    records: RunnerRecords
    load_timeout: float
    hang_timeout: float
    tuning: Tuning


class Runner:
    """Implements `ollmlx.supervisor.runner.factory.PooledRunner` with a real process."""

    def __init__(self, resources: RunnerResources, spec: LaunchSpec, id: str, allowance: Allowance) -> None:
        self.id = id
        self.spec = spec
        self.allowance = allowance
        self.state = RunnerState.STARTING
        self.active_requests = 0
        self.status: Progress | None = None
        self.memory = 0
        self.throttled = False
        self.needs_replacement = False
        self.failure: RunnerFailure | None = None
        self.on_exit: Callable[[RunnerFailure], None] = lambda failure: None
        self.on_change: Callable[[], None] = lambda: None
        self.client: RunnerClient
        self._resources = resources
        self._tail = OutputTail(id, logging.getLogger("ollmlx.runner"), resources.clock.monotonic)
        self._child: Child | None = None
        self._socket: Path | None = None
        self._temporary: Path | None = None
        self._kill_reason: tuple[Cause, str] | None = None
        self._output_before_kill: str | None = None
        """The line that explained the failure when the runner was killed."""
        self._reaped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = HealthMonitor(
            self, spec.model, resources.clock, lambda: process_memory(self._child.pid) if self._child else None,
            hang_timeout=resources.hang_timeout, probe_interval=resources.tuning.probe_interval,
        )  # fmt: skip

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    @property
    def parallel(self) -> int:
        """Requests that it serves at once."""
        return max(1, self.spec.parallel or (self.status.parallel if self.status is not None else 1))

    def last_output(self) -> tuple[str, ...]:
        return self._tail.last_lines()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def generate(self, request: StreamRequest, call: RunnerCall | None = None) -> AsyncGenerator[Event]:
        """Yield events up to and including `Done`. Every stream that ends otherwise raises OllmlxError.

        This is the one place where a failed or unfinished stream becomes an error. Callers rely on it.
        """
        try:
            async with self._lent(request) as lent, aclosing(self.client.generate(lent, call)) as events:
                async for event in events:
                    yield event
        except (ConnectionLost, ProtocolViolation, RunnerUnavailable) as broken:
            raise await self._explain(broken) from broken

    @asynccontextmanager
    async def _lent(self, request: StreamRequest) -> AsyncIterator[StreamRequest]:
        """Put the audio of a request where the process may read it, until the block ends."""
        if not isinstance(request, TranscribeRequest) or request.audio is None or self._temporary is None:
            yield request
            return
        lent = self._temporary / f"audio-{secrets.token_hex(8)}"
        try:
            with storage_errors("cannot hand the audio to the runner"):
                await asyncio.to_thread(link_or_copy, request.audio, lent)
            yield request.model_copy(update={"audio": lent})
        finally:
            await asyncio.to_thread(lent.unlink, missing_ok=True)

    async def embed(self, request: EmbedRequest, call: RunnerCall | None = None) -> EmbedResult:
        return await self._explained(self.client.embed(request, call))

    async def rerank(self, request: RerankRequest, call: RunnerCall | None = None) -> RerankResult:
        return await self._explained(self.client.rerank(request, call))

    async def tokenize(self, request: TokenizeRequest, call: RunnerCall | None = None, request_id: str = "") -> Tokens:
        return await self._explained(self.client.tokenize(request, call, request_id))

    def abort(self, reason: OllmlxError) -> None:
        """End every request under way with this reason. The runner goes on running."""
        self.client.abort(reason)

    async def _explained(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except (ConnectionLost, ProtocolViolation, RunnerUnavailable) as broken:
            raise await self._explain(broken) from broken

    async def _explain(self, broken: ConnectionLost | ProtocolViolation | RunnerUnavailable) -> OllmlxError:
        """Return the error that a broken connection, or a runner that is closing, means for its request.

        Almost always the process has exited, which this process learns a moment later.
        """
        if isinstance(broken, ProtocolViolation):
            self.kill(Cause.PROTOCOL, f"broke the protocol: {broken}")
        if self.state is RunnerState.STOPPING:
            return Busy(f"the runner of {self.spec.name} is stopping")
        assert self._child is not None
        if self._kill_reason is not None or await self._child.wait(EXIT_PATIENCE):
            await self._reaped.wait()
        if self.failure is not None:
            return self.failure.error(self.spec.name)
        return RunnerFailed(f"the runner of {self.spec.name} failed: {broken}", code="RUN002", hint="ollmlx logs")

    # -- start and end -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Spawn the process, load the model, and wait for the answer to a trial prompt.

        Raises OllmlxError, or OSError when the machine has no descriptor or process left. A failed start leaves nothing
        behind.
        """
        try:
            await self._spawn()
            await self._unless_it_exits(self._load())
            watch = keep_running(f"watching {self.id}", self._health.run, self._resources.clock.sleep)
            self._create_task(watch, "health")
        except BaseException as error:
            self.state = RunnerState.FAILED
            await asyncio.shield(asyncio.ensure_future(self._clean_up(loading=True)))
            if isinstance(error, LoadFailed | ConnectionLost | ProtocolViolation):
                assert self.failure is not None
                raise self.failure.error(self.spec.name) from error
            if isinstance(error, OllmlxError) and self.failure is None:  # it could not be executed
                self.failure = RunnerFailure(Cause.EXEC, error.message, remedy=Remedy.NONE, loading=True)
            raise
        self.state = RunnerState.READY
        self._tail.mark_loaded()
        self._create_task(self._watch_exit(), "exit watch")

    async def stop(self, grace: float) -> None:
        """End the process: ask, then TERM, and KILL after `grace` seconds. Returns when it is reaped."""
        if self.state in (RunnerState.STARTING, RunnerState.READY):
            self.state = RunnerState.STOPPING
            if self._child is not None and not self._child.exited.is_set():
                await self._terminate(self._child, grace)
            await self._clean_up(loading=False)
        await self._reaped.wait()

    def kill(self, cause: Cause, text: str) -> None:
        """End the process now, for this reason. Requests under way fail with it."""
        if self._kill_reason is None and self._child is not None and not self._child.exited.is_set():
            logger.error("%s %s: killing it", self.id, text)
            self._kill_reason = (cause, text)
            self._output_before_kill = self._tail.likely_cause()
            self._create_task(self._send_kill(self._child, cause), "kill")

    async def _spawn(self) -> None:
        resources, spec = self._resources, self.spec
        token, nonce = secrets.token_urlsafe(32), secrets.token_hex(16)
        listener, self._socket = resources.socket_dir.listen()
        self._temporary = resources.socket_dir.temporary(self._socket)
        self.client = RunnerClient(self._socket, token)
        with listener:  # with a copy open in the daemon, clients of an exited runner would wait for ever
            argv = [argument.replace("{fd}", str(listener.fileno())) for argument in spec.command.argv]
            env = {**child_environment(), **spec.command.env, NONCE: nonce, "TMPDIR": str(self._temporary)}
            folder = resources.socket_dir.folder
            child = self._child = await spawn(argv, env=env, cwd=folder, fds=[listener.fileno()], tail=self._tail)
        resources.guardian.add(child.pid, child.started)
        resources.records.write(RunnerRecord(self.id, child.pid, child.started or "", boot_id(), nonce))
        config = RunnerConfig(
            runner=self.id,
            token=token,
            model=spec.model,
            context_length=spec.context_length,
            parallel=spec.parallel,
            memory_limit=self.allowance.hard,
            cache_limit=self.allowance.cache_limit,
            prompt_cache_bytes=self.allowance.prompt_cache,
            engine_options=spec.command.engine_options,
            **{**spec.runner_settings, "cache_dir": self._cache_folder(spec.runner_settings.get("cache_dir"))},
        )
        # The child allocates nothing before this line, and by now the guardian has it on its list.
        child.write(config.__pydantic_serializer__.to_json(config) + b"\n")
        logger.info("%s started as process %d", self.id, child.pid)

    def _cache_folder(self, wanted: Path | None) -> Path | None:
        """Make the folder for saved prompt caches; without it, none are saved."""
        try:
            if wanted is not None:
                wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("%s saves no prompt caches: %s", self.id, error.strerror)
            return None
        return wanted

    async def _load(self) -> None:
        assert self._child is not None
        load = ModelLoad(
            self, self._health, self._tail, self._child, self._resources.clock, self._resources.load_timeout
        )
        try:
            await load.run(self.spec.model)
        except LoadFailed as failed:
            self._kill_reason = self._kill_reason or (failed.cause, failed.text)
            if failed.error is not None:
                raise failed.error from None
            raise

    async def _unless_it_exits(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work. Raises LoadFailed when the process exits first."""
        assert self._child is not None
        task = asyncio.ensure_future(work)
        exit_ = asyncio.ensure_future(self._child.exited.wait())
        try:
            await asyncio.wait([task, exit_], return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or (self._child.exited.is_set() and task.exception() is not None):
                raise LoadFailed(Cause.EXIT, "exited")
            task.result()
        finally:
            for each in (task, exit_):
                each.cancel()
            await asyncio.wait([task, exit_])
            if not task.cancelled():
                task.exception()

    async def _watch_exit(self) -> None:
        assert self._child is not None
        await self._child.exited.wait()
        if self.state is not RunnerState.STOPPING:
            self.state = RunnerState.FAILED
            await self._clean_up(loading=False)
            assert self.failure is not None
            logger.error("%s", self.failure.sentence(self.spec.name))
            self.on_exit(self.failure)

    async def _send_kill(self, child: Child, cause: Cause) -> None:
        if cause is Cause.HANG:
            child.signal(signal.SIGABRT)
            await child.wait(ABORT_GRACE)
        child.signal(signal.SIGKILL)

    async def _terminate(self, child: Child, grace: float) -> None:
        child.remember_descendants()
        asked = False
        with suppress(ConnectionLost, ProtocolViolation, OllmlxError):
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
        """Reap the process, end the tasks, close connections, remove the socket and the record. May be repeated."""
        child = self._child
        if child is not None:
            was_running = child.returncode is None
            await child.close()
            logger.debug("%s (process %d) has exited: status %s", self.id, child.pid, child.returncode)
            if self.state is not RunnerState.STOPPING and self.failure is None:
                self.failure = self._find_failure(child, loading=loading, was_running=was_running)
            self._resources.guardian.remove(child.pid)
            self._resources.records.remove(child.pid)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:  # before the client closes: they would call it
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            await self.client.close()
            self._socket.unlink(missing_ok=True)
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)
        self._reaped.set()

    def _find_failure(self, child: Child, *, loading: bool, was_running: bool) -> RunnerFailure:
        output = self._tail.last_lines()
        if self._kill_reason is not None:
            cause, text = self._kill_reason
            # The output after SIGABRT shows where it hangs: stacks for the log, which explain nothing to a person.
            explanation = {Cause.HANG: self._output_before_kill, Cause.STALL: self._tail.likely_cause()}.get(cause)
            remedy = Remedy.NONE if cause is Cause.PROTOCOL and loading else Remedy.RETRY
            return RunnerFailure(cause, text, explanation, output, remedy, loading)
        if was_running:
            return RunnerFailure(Cause.PROTOCOL, "broke the protocol", None, output, Remedy.RETRY, loading)
        assert child.returncode is not None
        return RunnerFailure.of_exit(child.returncode, self._tail.likely_cause(), output, loading=loading)

    def _create_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        # In a context of its own: its log lines are about the runner, not about the request that loads it.
        task = asyncio.create_task(work, name=f"{name} {self.id}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
