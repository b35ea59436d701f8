"""The daemon's end of the guardian: starts it, tells it which process groups to end when the daemon dies."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from ollmlx.supervisor.process.child import Child, child_environment, spawn
from ollmlx.supervisor.process.orphans import guardian
from ollmlx.supervisor.process.orphans import process_id as identity
from ollmlx.supervisor.process.tail import Tail

logger = logging.getLogger(__name__)


class Guard:
    """Keeps one guardian process alive, and its list of groups right. Used on the daemon's event loop only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups: dict[int, str] = {}
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.pid: int | None = None

    async def start(self) -> None:
        """Start the guardian. Before the first runner."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="guardian")

    def add(self, pid: int, started: str | None) -> None:
        """Guard the group of this process. Called right after the spawn, before the child may allocate."""
        self._groups[pid] = started or "-"
        self._tell(f"+{pid} {self._groups[pid]}")

    def remove(self, pid: int) -> None:
        """The process has been reaped."""
        if self._groups.pop(pid, None) is not None:
            self._tell(f"-{pid}")

    async def close(self) -> None:
        """Let the guardian go: it ends what is still on its list."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._child is not None:
            self._child.end_input()
            await self._child.wait(guardian.GRACE + 2)
            await self._child.close()
            self._child = None
            self.pid = None

    async def _spawn(self) -> None:
        argv = [sys.executable, "-I", "-S", str(guardian.__file__), str(identity.__file__), str(self._folder)]
        tail = Tail("guardian", logger, asyncio.get_running_loop().time)
        self._child = await spawn(argv, env=child_environment(), cwd=Path("/"), fds=(), tail=tail)
        self.pid = self._child.pid
        for pid, started in self._groups.items():
            self._tell(f"+{pid} {started}")

    async def _keep(self) -> None:
        while self._child is not None:
            await self._child.exited.wait()
            logger.warning("the guardian ended (status %s); starting another", self._child.returncode)
            await self._child.close()
            await asyncio.sleep(0.2)
            await self._spawn()

    def _tell(self, order: str) -> None:
        if self._child is not None and not self._child.exited.is_set():
            self._child.write(order.encode("ascii") + b"\n")
