"""Pytest fixtures that fail a test that leaks processes, tasks, sockets, environment variables or a working directory.

Write `pytest_plugins = ["ollmlx.testing.guards"]` in a conftest.py, and use `no_leaks` in single tests or in all:

    @pytest.fixture(autouse=True)
    def guarded(no_leaks: None) -> None: ...

The guards cost little: processes are only listed for a test that started one.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from ollmlx.helper import close_helpers
from ollmlx.testing.waiting import wait_until

GRACE = 30.0
"""Seconds in which the processes, sockets and tasks that a test ended may still be ending."""

_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class StartedProcesses:
    """The process ids that `subprocess` and asyncio started in this test, and those that existed before."""

    pids: list[int] = field(default_factory=list)
    before: set[int] | None = None

    def note_existing(self) -> None:
        """Note the processes that exist, before the first one of a test starts. Slow, so it is done only then."""
        if self.before is None:
            self.before = {child.pid for child in psutil.Process().children(recursive=True)}

    def reset(self) -> None:
        """Forget all processes: a new test begins."""
        self.pids.clear()
        self.before = None


@pytest.fixture(scope="session")
def started_processes() -> Iterator[StartedProcesses]:
    """Record every started process. On Linux this process adopts orphans, so that a lost parent hides no child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = StartedProcesses()
    original = subprocess.Popen.__init__

    def recording(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        started.note_existing()
        original(self, *args, **kwargs)
        started.pids.append(self.pid)

    patch = pytest.MonkeyPatch()
    patch.setattr(subprocess.Popen, "__init__", recording)
    yield started
    patch.undo()


@pytest.fixture
def no_leaked_processes(started_processes: StartedProcesses) -> Iterator[None]:
    """Fail the test when a process that it started still exists, also as a zombie, and kill the process."""
    started_processes.reset()
    yield
    close_helpers()  # they wait for the next call, whoever makes it
    ours, before = set(started_processes.pids), started_processes.before
    if not ours or before is None:
        return

    def left() -> list[psutil.Process]:
        found = [child for child in psutil.Process().children(recursive=True) if not _belongs_to(child, before)]
        return [child for child in found if not _reaped_orphan(child, ours)]

    try:
        wait_until(lambda: not left(), GRACE)
    except AssertionError:
        leaked = left()
        described = [_described(child) for child in leaked]
        _end(leaked)
        pytest.fail(f"the test left processes behind: {'; '.join(described)}")


def _belongs_to(child: psutil.Process, before: set[int]) -> bool:
    """True for a process that existed before the test, or that such a one started (a runner of a shared daemon)."""
    with suppress(psutil.NoSuchProcess):
        return child.pid in before or any(parent.pid in before for parent in child.parents())
    return False


def _reaped_orphan(child: psutil.Process, ours: set[int]) -> bool:
    """Wait for an adopted orphan that has exited. The test itself must wait for the processes that it started."""
    with suppress(psutil.NoSuchProcess):
        if child.status() != psutil.STATUS_ZOMBIE or child.pid in ours or child.ppid() != os.getpid():
            return False
        with suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
    return True


def _described(child: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        status = child.status()
        command = "" if status == psutil.STATUS_ZOMBIE else " ".join(child.cmdline())[:200]
        return f"{child.pid} ({status}) {command or child.name()}"
    return str(child.pid)


def _end(leaked: list[psutil.Process]) -> None:
    for child in leaked:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    for child in leaked:
        with suppress(ChildProcessError):
            os.waitpid(child.pid, 0)


@pytest.fixture
def no_leaked_descriptors() -> Iterator[None]:
    """Fail the test when more sockets or pipes are open after it than before."""
    before = _open_channels()
    yield
    close_helpers()
    if _open_channels() <= before:
        return
    gc.collect()
    try:
        wait_until(lambda: _open_channels() <= before, GRACE)
    except AssertionError:
        pytest.fail(f"the test left {_open_channels() - before} sockets or pipes open")


def _open_channels() -> int:
    count = 0
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - making a Path for each would take most of the time
        with suppress(OSError):
            mode = os.fstat(int(name)).st_mode
            count += stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)
    return count


@pytest.fixture
def same_surroundings() -> Iterator[None]:
    """Fail the test when it changed the environment or the working directory, and restore them."""
    variables, folder = dict(os.environ), Path.cwd()
    yield
    changed = {
        name
        for name in {*variables, *os.environ} - {"PYTEST_CURRENT_TEST"}
        if variables.get(name) != os.environ.get(name)
    }
    moved = not _is_here(folder)
    if changed:
        os.environ.clear()
        os.environ.update(variables)
    if moved:
        os.chdir(folder)
    assert not changed, f"the test changed the environment: {', '.join(sorted(changed))}"
    assert not moved, "the test changed the working directory"


def _is_here(folder: Path) -> bool:
    try:
        return Path.cwd() == folder
    except FileNotFoundError:
        return False


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail the test when it leaves asyncio tasks running. `no_leaks` uses this for async tests."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=GRACE)
        pytest.fail(f"the test left tasks running: {', '.join(repr(task.get_coro()) for task in left)}")


@pytest.fixture
def no_leaks(
    request: pytest.FixtureRequest,
    no_leaked_processes: None,
    no_leaked_descriptors: None,
    same_surroundings: None,
) -> None:
    """Use all guards at once."""
    test = getattr(request.function, "__wrapped__", request.function)
    if inspect.iscoroutinefunction(test):
        request.getfixturevalue("no_leaked_tasks")
