"""Where runners come from. The pool asks a workshop; the real one spawns processes, tests bring their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ollmlx.errors import OllmlxError
from ollmlx.launch.spec import LaunchSpec
from ollmlx.protocol import Progress, TokenizeRequest, Tokens
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Clock
from ollmlx.supervisor.process.instance_lock import InstanceLock
from ollmlx.supervisor.process.memory_use import footprint
from ollmlx.supervisor.process.orphans import process_id as identity
from ollmlx.supervisor.process.orphans.guardian_client import Guard
from ollmlx.supervisor.process.orphans.records import Records
from ollmlx.supervisor.process.sockets import SocketDir
from ollmlx.supervisor.runner.client import Exchange
from ollmlx.supervisor.runner.failure import RunnerFailure
from ollmlx.supervisor.scheduling.memory import Allowance
from ollmlx.supervisor.tuning import Tuning
from ollmlx.types import EmbedRequest, EmbedResult, Event, GenerateRequest, RunnerState


class PooledRunner(Protocol):
    """What the pool needs of a runner. `working` is set by the pool: leases that are out."""

    id: str
    launch: LaunchSpec
    allowance: Allowance
    state: RunnerState
    working: int
    death: RunnerFailure | None
    on_death: Callable[[RunnerFailure], None]
    on_change: Callable[[], None]

    @property
    def pid(self) -> int | None: ...
    @property
    def status(self) -> Progress | None: ...
    @property
    def parallel(self) -> int: ...
    @property
    def throttled(self) -> bool: ...
    @property
    def bloated(self) -> bool: ...
    @property
    def memory(self) -> int: ...
    def last_words(self) -> tuple[str, ...]: ...
    async def start(self) -> None: ...
    async def stop(self, grace: float) -> None: ...
    def abort(self, reason: OllmlxError) -> None: ...
    def generate(self, request: GenerateRequest, exchange: Exchange | None = None) -> AsyncIterator[Event]: ...
    async def embed(self, request: EmbedRequest, exchange: Exchange | None = None) -> EmbedResult: ...
    async def tokenize(
        self, request: TokenizeRequest, exchange: Exchange | None = None, request_id: str = ""
    ) -> Tokens: ...
    async def detokenize(self, tokens: Tokens) -> str: ...


class RunnerFactory(Protocol):
    """Makes runners, and owns what they share."""

    async def open(self) -> None:
        """Before the first runner."""
        ...

    def make(self, launch: LaunchSpec, id: str, allowance: Allowance) -> PooledRunner:
        """A runner that has not been started."""
        ...

    def guarded(self, pid: int) -> AbstractContextManager[None]:
        """While it lasts, the process group `pid` is ended when the daemon dies."""
        ...

    async def close(self) -> None:
        """After the last runner has been stopped."""
        ...


@dataclass(slots=True)
class RunnerResources:
    """What runners share within one daemon."""

    settings: Settings
    tuning: Tuning
    clock: Clock
    rendezvous: SocketDir
    guard: Guard
    records: Records
    footprint: Callable[[int], int | None] = footprint


class ProcessRunnerFactory:
    """The real one: a lock on the state folder, a sweep of leftovers, a guardian, a folder for sockets."""

    def __init__(self, settings: Settings, clock: Clock, tuning: Tuning) -> None:
        self._settings = settings
        self._tuning = tuning
        self._clock = clock
        self._singleton = InstanceLock(settings.state_folder)
        self._tools: RunnerResources | None = None
        self.swept = 0
        """Runners of an earlier daemon that had to be ended."""

    async def open(self) -> None:
        """Raises Conflict when another daemon holds the state folder, StorageError when it cannot be used."""
        state: Path = self._settings.state_folder
        self._singleton.acquire()
        try:
            records = Records(state / "runners")
            self.swept = await records.sweep()
            rendezvous = SocketDir.create(state)
            guard = Guard(rendezvous.folder)
            await guard.start()
        except BaseException:
            self._singleton.release()
            raise
        self._tools = RunnerResources(self._settings, self._tuning, self._clock, rendezvous, guard, records)

    @property
    def guardian(self) -> int | None:
        """The guardian's process id."""
        return self._tools.guard.pid if self._tools is not None else None

    def make(self, launch: LaunchSpec, id: str, allowance: Allowance) -> PooledRunner:
        from ollmlx.supervisor.runner.runner import Runner

        if self._tools is None:
            raise RuntimeError("the workshop is closed")
        return Runner(self._tools, launch, id, allowance)

    @contextmanager
    def guarded(self, pid: int) -> Iterator[None]:
        if self._tools is None:
            yield
            return
        guard = self._tools.guard
        guard.add(pid, identity.started(pid))
        try:
            yield
        finally:
            guard.remove(pid)

    async def close(self) -> None:
        if self._tools is not None:
            await self._tools.guard.close()
            self._tools.rendezvous.remove()
            self._tools = None
        self._singleton.release()
