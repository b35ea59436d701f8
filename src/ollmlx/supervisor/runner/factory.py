"""Makes runners. The pool uses the protocols of this module; tests implement them without processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ollmlx.errors import OllmlxError
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import Progress, TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Clock, Tuning
from ollmlx.supervisor.process.child import Guardian
from ollmlx.supervisor.process.guardian import process_start
from ollmlx.supervisor.process.state_folder import InstanceLock, RunnerRecords, SocketDir
from ollmlx.supervisor.runner.client import RunnerCall
from ollmlx.supervisor.runner.failure import RunnerFailure
from ollmlx.supervisor.runner.runner import Runner, RunnerResources
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.types import EmbedRequest, EmbedResult, Event, RerankRequest, RerankResult, RunnerState, StreamRequest


class PooledRunner(Protocol):
    """The part of a runner that the pool uses. `Runner` documents the methods.

    The pool sets `active_requests` (leases of this runner), `on_exit` (called after an exit that was not asked for) and
    `on_change` (called when `throttled` or `needs_replacement` changed).
    """

    id: str
    spec: LaunchSpec
    allowance: Allowance
    state: RunnerState
    active_requests: int
    status: Progress | None
    memory: int
    throttled: bool
    needs_replacement: bool
    failure: RunnerFailure | None
    on_exit: Callable[[RunnerFailure], None]
    on_change: Callable[[], None]

    @property
    def pid(self) -> int | None: ...
    @property
    def parallel(self) -> int: ...
    def last_output(self) -> tuple[str, ...]: ...
    async def start(self) -> None: ...
    async def stop(self, grace: float) -> None: ...
    def abort(self, reason: OllmlxError) -> None: ...
    def generate(self, request: StreamRequest, call: RunnerCall | None = None) -> AsyncGenerator[Event]: ...
    async def embed(self, request: EmbedRequest, call: RunnerCall | None = None) -> EmbedResult: ...
    async def rerank(self, request: RerankRequest, call: RunnerCall | None = None) -> RerankResult: ...
    async def tokenize(
        self, request: TokenizeRequest, call: RunnerCall | None = None, request_id: str = ""
    ) -> Tokens: ...


class RunnerFactory(Protocol):
    """Makes runners, and owns the resources that they share."""

    async def open(self) -> None:
        """Prepare the shared resources. Called before the first runner."""

    def make(self, spec: LaunchSpec, id: str, allowance: Allowance) -> PooledRunner:
        """Return a runner that has not been started."""

    def guarded(self, pid: int) -> AbstractContextManager[None]:
        """End the process group `pid` should the daemon exit inside this context."""

    async def close(self) -> None:
        """Release the shared resources. Called after the last runner has been stopped."""


class ProcessRunnerFactory:
    """Makes runners that are processes. Owns the instance lock, the guardian and the folder for sockets."""

    def __init__(self, settings: Settings, clock: Clock, tuning: Tuning) -> None:
        self._settings = settings
        self._clock = clock
        self._tuning = tuning
        self._lock = InstanceLock(settings.state_folder)
        self._resources: RunnerResources | None = None

    async def open(self) -> None:
        """Take the state folder and end the orphans of an earlier daemon.

        Raises Conflict when another daemon has the folder, StorageError when it cannot be used.
        """
        state = self._settings.state_folder
        self._lock.acquire()
        try:
            records = RunnerRecords(state / "runners")
            await records.end_orphans()
            socket_dir = SocketDir.create(state)
            guardian = Guardian(socket_dir.folder)
            await guardian.start()
        except BaseException:
            self._lock.release()
            raise
        runners = self._settings.runners
        self._resources = RunnerResources(
            self._clock, socket_dir, guardian, records, runners.load_timeout, runners.hang_timeout, self._tuning
        )

    def make(self, spec: LaunchSpec, id: str, allowance: Allowance) -> PooledRunner:
        if self._resources is None:
            raise RuntimeError("the runner factory is not open")
        return Runner(self._resources, spec, id, allowance)

    @contextmanager
    def guarded(self, pid: int) -> Iterator[None]:
        if self._resources is None:
            yield
            return
        guardian = self._resources.guardian
        guardian.add(pid, process_start(pid))
        try:
            yield
        finally:
            guardian.remove(pid)

    async def close(self) -> None:
        resources, self._resources = self._resources, None
        try:
            if resources is not None:
                await resources.guardian.close()
                resources.socket_dir.remove()
        finally:
            self._lock.release()
