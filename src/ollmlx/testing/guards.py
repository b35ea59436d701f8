"""Pytest fixtures that fail a test which leaves something behind: processes, tasks, sockets, variables, a directory.

In a conftest.py: `pytest_plugins = ["ollmlx.testing.guards"]`, and then `no_leaks` where it is wanted, or everywhere:

    @pytest.fixture(autouse=True)
    def guarded(no_leaks: None) -> None: ...

Cheap for tests that start nothing: processes are only looked for when one was started.
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
from pathlib import Path
from typing import Any

import psutil
import pytest

from ollmlx.testing.waiting import wait_until

GRACE = 30.0
"""Seconds in which the processes, sockets and tasks that a test ended may still be ending."""

_PR_SET_CHILD_SUBREAPER = 36


class Started:
    """The process ids that `subprocess` (asyncio's too) started in this test, and those that were there before."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.before: set[int] | None = None

    def look(self) -> None:
        """Note what is there. Only the first time in a test: looking is slow, and most tests start nothing."""
        if self.before is None:
            self.before = {child.pid for child in psutil.Process().children(recursive=True)}

    def forget(self) -> None:
        """Another test begins."""
        self.pids.clear()
        self.before = None


@pytest.fixture(scope="session")
def started_processes() -> Iterator[Started]:
    """Every started process. On Linux orphans are adopted, so that nothing escapes by losing its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = Started()
    original = subprocess.Popen.__init__

    def recording(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        started.look()
        original(self, *args, **kwargs)
        started.pids.append(self.pid)

    patch = pytest.MonkeyPatch()
    patch.setattr(subprocess.Popen, "__init__", recording)
    yield started
    patch.undo()


@pytest.fixture
def no_leaked_processes(started_processes: Started) -> Iterator[None]:
    """Fails, and kills, when a process that the test started is still there, also as a zombie nobody waited for."""
    started_processes.forget()
    yield
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
        told = [_described(child) for child in leaked]
        _end(leaked)
        pytest.fail(f"the test left processes behind: {'; '.join(told)}")


def _belongs_to(child: psutil.Process, before: set[int]) -> bool:
    """Whether a process was there before the test, or was started by one that was: a shared daemon's runner."""
    with suppress(psutil.NoSuchProcess):
        return child.pid in before or any(parent.pid in before for parent in child.parents())
    return False


def _reaped_orphan(child: psutil.Process, ours: set[int]) -> bool:
    """A dead grandchild that we adopted is waited for here; our own dead child is the test's to wait for."""
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
    """Fails when more sockets or pipes are open after the test than before."""
    before = _open_channels()
    yield
    if _open_channels() <= before:
        return
    gc.collect()
    try:
        wait_until(lambda: _open_channels() <= before, GRACE)
    except AssertionError:
        pytest.fail(f"the test left {_open_channels() - before} sockets or pipes open")


def _open_channels() -> int:
    count = 0
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - a Path for each would be most of the work
        with suppress(OSError):
            mode = os.fstat(int(name)).st_mode
            count += stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)
    return count


@pytest.fixture
def same_surroundings() -> Iterator[None]:
    """Fails, and puts back, when the test changed the environment or the working directory."""
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
    """Fails when the test leaves asyncio tasks running. For async tests; `no_leaks` knows which those are."""
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
    """All guards at once."""
    test = getattr(request.function, "__wrapped__", request.function)
    if inspect.iscoroutinefunction(test):
        request.getfixturevalue("no_leaked_tasks")
