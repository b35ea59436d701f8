"""Keeps the machine awake while requests are answered: a program of the system holds off sleep as long as it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

AFTER = 2.0
"""Seconds that a request must last before a program is started for it."""
LINGER = 10.0
"""Seconds between two looks: the program ends that long after the last request, not between two turns of an agent."""
BOOTED = Path("/run/systemd/system")
"""The folder by which systemd tells that it runs the machine."""


def awake_command(platform: str, *, booted: Path = BOOTED) -> Sequence[str]:
    """Return the program that holds off sleep, empty where none is known. It ends with this process in any case."""
    if platform == "darwin" and (program := shutil.which("caffeinate")):
        return (program, "-i", "-w", str(os.getpid()))
    if platform.startswith("linux") and booted.is_dir() and (program := shutil.which("systemd-inhibit")):
        # `cat` ends at the end of its standard input, which is a pipe of this process
        return (program, "--what=idle:sleep", "--who=ollmlx", "--why=answering requests", "--mode=block", "cat")
    return ()


class Awake:
    """Counts requests, and runs `command` while there are some. For the event loop's thread."""

    def __init__(self, command: Sequence[str], sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._command = command
        self._sleep = sleep
        self._requests = 0
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def during(self) -> Iterator[None]:
        """Keep the machine awake in the block, if it lasts."""
        self._requests += 1
        if self._command and self._task is None:
            self._task = asyncio.create_task(self._keep(), name="awake")
        try:
            yield
        finally:
            self._requests -= 1

    async def close(self) -> None:
        """Let the machine sleep."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep(self) -> None:
        await self._sleep(AFTER)
        while self._requests and self._command:
            await self._hold()
        self._task = None

    async def _hold(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
            )
        except OSError as error:
            self._give_up(str(error.strerror))
            return
        try:
            while self._requests:
                await self._sleep(LINGER)
                if process.returncode is not None:
                    self._give_up(f"exit status {process.returncode}")
                    return
        finally:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    def _give_up(self, reason: str) -> None:
        logger.info("the machine may sleep during long answers: %s: %s", self._command[0], reason)
        self._command = ()
