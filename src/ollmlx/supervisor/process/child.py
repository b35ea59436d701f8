"""Child processes: each spawned into a session of its own, and ended by a guardian should the daemon exit."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ollmlx.errors import RunnerFailed
from ollmlx.supervisor.process import guardian
from ollmlx.supervisor.process.guardian import GRACE, process_start
from ollmlx.supervisor.process.tail import OutputTail

logger = logging.getLogger(__name__)
ALLOWED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES"),
)
SEARCHED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that list folders of programs and libraries."""
FIXED = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
OOM_SCORE = "500"
DRAIN_TIME = 0.3
"""Seconds that the last output of a process may take to arrive after its exit."""
TEMPORARY_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Errors of the machine, not of the program. A later attempt may succeed."""


def child_environment() -> dict[str, str]:
    """Return the environment of a child: an allow-list without secrets, and no network for model libraries.

    Folders of PATH that depend on the working directory are left out: anybody may have put a program there.
    """
    found = {name: os.environ[name] for name in ALLOWED if name in os.environ} | FIXED
    for name in SEARCHED:
        if name in found:
            absolute = [folder for folder in found[name].split(os.pathsep) if folder.startswith("/")]
            found[name] = os.pathsep.join(absolute)
    return found


class Child(asyncio.SubprocessProtocol):
    """One spawned process and its process group. Made by `spawn`; `close` reaps it."""

    def __init__(self, tail: OutputTail) -> None:
        self.tail = tail
        self.pid = 0
        self.started: str | None = None
        self.exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._open_pipes = {1, 2}
        self._transport: asyncio.SubprocessTransport | None = None
        self._descendants: dict[int, psutil.Process] = {}

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._transport.get_returncode() if self._transport is not None else None

    # -- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()
        self.started = process_start(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.tail.feed(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self._drained.set()

    def process_exited(self) -> None:
        self.exited.set()

    # -- called by its owner -----------------------------------------------------------------------------------------

    def write(self, line: bytes) -> None:
        """Write a line to its standard input, which stays open."""
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        if not stdin.is_closing():
            stdin.write(line)

    def close_stdin(self) -> None:
        """Close its standard input."""
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()

    def remember_descendants(self) -> None:
        """Note its descendants, so that `close` also kills those that left the process group."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                self._descendants[process.pid] = process

    def signal(self, number: int) -> None:
        """Signal the whole group. An empty group is no error."""
        if self.returncode is None:
            self.remember_descendants()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def wait(self, timeout: float) -> bool:
        """Wait for its exit for at most `timeout` seconds. Returns True when it has exited."""
        try:
            await asyncio.wait_for(self.exited.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Kill what is left of the group and of its descendants, and close the pipes. Returns when it is reaped."""
        self.signal(signal.SIGKILL)
        for process in self._descendants.values():
            with suppress(psutil.Error):  # psutil compares the start time: a reused process id is not killed
                process.kill()
        await self.exited.wait()
        with suppress(TimeoutError):  # output may still be in the pipes
            await asyncio.wait_for(self._drained.wait(), DRAIN_TIME)
        self.tail.end()
        if self._transport is not None:
            self._transport.close()


async def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, fds: Sequence[int], tail: OutputTail
) -> Child:
    """Start a program in a session of its own. Only from the main thread: a parent-death signal follows the thread.

    Raises RunnerFailed when it cannot be executed, OSError when descriptors, memory or processes ran out.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("child processes are spawned from the main thread only")
    loop = asyncio.get_running_loop()
    child = Child(tail)
    try:
        await loop.subprocess_exec(
            lambda: child, *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env=dict(env), cwd=cwd, pass_fds=tuple(fds), start_new_session=True,
            umask=0o077,
        )  # fmt: skip
    except OSError as error:
        if error.errno in TEMPORARY_ERRORS:
            raise
        raise RunnerFailed(
            f"cannot execute {argv[0]}: {error.strerror or error}", code="RUN001", hint="ollmlx doctor"
        ) from error
    _confine(child.pid)
    return child


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
            await self._start_again()

    async def _start_again(self) -> None:
        """Start another guardian, and try again until one runs: without it, runners could outlive the daemon."""
        for pause in itertools.chain((0.2, 1.0, 5.0), itertools.repeat(30.0)):
            await asyncio.sleep(pause)
            try:
                await self._spawn()
            except (OSError, RunnerFailed) as error:
                logger.error("the guardian cannot be started: %s; trying again", error)  # noqa: TRY400 - no bug
            else:
                return

    def _send(self, line: str) -> None:
        if self._child is not None and not self._child.exited.is_set():
            self._child.write(line.encode("ascii") + b"\n")


def _confine(pid: int) -> None:
    """Switch off core dumps (they would hold prompts), and make it the kernel's first choice when memory runs out.

    Errors are ignored: the runner does the same for itself.
    """
    if sys.platform != "linux":
        return
    import resource

    with suppress(OSError, ValueError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
