"""The daemon's two protections against orphans: a guardian process, and a record on disk for each runner."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ollmlx.supervisor.process.child import Child, child_environment, spawn
from ollmlx.supervisor.process.orphans import guardian
from ollmlx.supervisor.process.orphans.guardian import GRACE, boot_id, process_start
from ollmlx.supervisor.process.tail import OutputTail

logger = logging.getLogger(__name__)
NONCE = "OLLMLX_RUNNER_NONCE"
"""An environment variable of every runner: it tells a runner apart from a program under a reused process id."""


class Guardian:
    """One guardian process, kept alive, and the process groups that it ends when the daemon exits.

    Used on the daemon's event loop only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups: dict[int, str] = {}
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the guardian process. Called before the first runner."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._restart_when_it_exits(), name="guardian")

    def add(self, pid: int, start: str | None) -> None:
        """Guard the group of this process. Called right after the spawn, before the child may allocate."""
        self._groups[pid] = start or "-"
        self._send(f"+{pid} {self._groups[pid]}")

    def remove(self, pid: int) -> None:
        """Guard a group no longer, because its process has been reaped."""
        if self._groups.pop(pid, None) is not None:
            self._send(f"-{pid}")

    async def close(self) -> None:
        """Close the guardian's input: it ends the groups that are still guarded, and exits."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._child is not None:
            self._child.close_stdin()
            await self._child.wait(GRACE + 2)
            await self._child.close()
            self._child = None

    async def _spawn(self) -> None:
        argv = [sys.executable, "-I", "-S", str(guardian.__file__), str(self._folder)]
        tail = OutputTail("guardian", logger, asyncio.get_running_loop().time)
        self._child = await spawn(argv, env=child_environment(), cwd=Path("/"), fds=(), tail=tail)
        for pid, start in self._groups.items():
            self._send(f"+{pid} {start}")

    async def _restart_when_it_exits(self) -> None:
        while self._child is not None:
            await self._child.exited.wait()
            logger.warning("the guardian exited (status %s); starting another", self._child.returncode)
            await self._child.close()
            await asyncio.sleep(0.2)
            await self._spawn()

    def _send(self, line: str) -> None:
        if self._child is not None and not self._child.exited.is_set():
            self._child.write(line.encode("ascii") + b"\n")


@dataclass(frozen=True, slots=True)
class RunnerRecord:
    """The identity of a runner's process. Its process id is also its group."""

    runner: str
    pid: int
    started: str
    boot: str
    nonce: str

    def is_running(self) -> bool:
        """Compare boot, process id, start time and nonce with the process that has the id now. In doubt: False."""
        if self.boot != boot_id() or self.started != process_start(self.pid):
            return False
        try:
            return psutil.Process(self.pid).environ().get(NONCE) == self.nonce
        except psutil.Error:
            return False


class RunnerRecords:
    """The folder `runners` of the state folder, one file for each runner. Only the owner of the lock touches it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: RunnerRecord) -> None:
        """Write a record, whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self._path(record.pid)
        staged = final.with_suffix(".part")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(record)), encoding="utf-8")
        staged.replace(final)

    def remove(self, pid: int) -> None:
        """Delete the record of a runner that has been reaped."""
        self._path(pid).unlink(missing_ok=True)

    async def end_orphans(self) -> int:
        """End every recorded runner that still runs, and delete all records. Returns how many runners were ended."""
        running = [record for record in self._read() if record.is_running()]
        for record in running:
            logger.warning("ending %s (process %d), left by an earlier daemon", record.runner, record.pid)
            _signal(record.pid, signal.SIGTERM)
        for _ in range(int(GRACE / 0.02)):
            if not any(record.is_running() for record in running):
                break
            await asyncio.sleep(0.02)
        for record in running:
            if record.is_running():
                _signal(record.pid, signal.SIGKILL)
        for file in [*self._folder.glob("*.json"), *self._folder.glob("*.part")]:
            file.unlink(missing_ok=True)
        return len(running)

    def _path(self, pid: int) -> Path:
        return self._folder / f"{pid}.json"

    def _read(self) -> list[RunnerRecord]:
        found = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(RunnerRecord(**json.loads(file.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                logger.warning("unreadable runner record %s: %s", file, error)
        return found


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
