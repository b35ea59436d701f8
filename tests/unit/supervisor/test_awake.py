"""The machine is kept awake by a program that runs as long as requests do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollmlx.supervisor.awake import AFTER, LINGER, Awake, awake_command
from ollmlx.testing import eventually

WAITS = (sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write('started\\n'); sys.stdin.read()")


class Sleeps:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._end = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._end.wait()
        self._end.clear()

    async def end(self, count: int) -> None:
        """End the sleep with this number, counted from 1."""
        await eventually(lambda: len(self.asked) == count)
        self._end.set()


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


def started(file: Path) -> Callable[[], int]:
    return lambda: file.read_text("utf-8").count("started") if file.exists() else 0


async def test_a_program_runs_as_long_as_requests_do(tmp_path: Path, sleeps: Sleeps) -> None:
    file = tmp_path / "started"
    awake = Awake((*WAITS, str(file)), sleeps)
    with awake.during(), awake.during():
        await sleeps.end(1)
        await eventually(started(file))
        await sleeps.end(2)
        await eventually(lambda: len(sleeps.asked) == 3)
    await sleeps.end(3)
    await eventually(lambda: "awake" not in {task.get_name() for task in asyncio.all_tasks()})
    assert sleeps.asked == [AFTER, LINGER, LINGER]
    assert started(file)() == 1
    await awake.close()


async def test_a_short_request_starts_nothing(tmp_path: Path, sleeps: Sleeps) -> None:
    file = tmp_path / "started"
    awake = Awake((*WAITS, str(file)), sleeps)
    with awake.during():
        pass
    await sleeps.end(1)
    await eventually(lambda: "awake" not in {task.get_name() for task in asyncio.all_tasks()})
    assert not started(file)()
    await awake.close()


async def test_close_ends_the_program(tmp_path: Path, sleeps: Sleeps) -> None:
    file = tmp_path / "started"
    awake = Awake((*WAITS, str(file)), sleeps)
    with awake.during():
        await sleeps.end(1)
        await eventually(started(file))
        await awake.close()  # the fixture for leaks finds a process that is left


@pytest.mark.parametrize("command", [(sys.executable, "-c", "raise SystemExit(1)"), ("/nowhere/inhibit",)])
async def test_a_program_that_fails_is_told_once(command: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    awake = Awake(command, lambda _: asyncio.sleep(0.01))
    with awake.during():
        await eventually(lambda: "may sleep" in caplog.text)
    with awake.during():
        await asyncio.sleep(0)
    await awake.close()
    assert caplog.text.count("may sleep") == 1


def test_the_program_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("caffeinate", "systemd-inhibit"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [Path(word).name for word in awake_command("darwin")[:2]] == ["caffeinate", "-i"]
    assert [Path(word).name for word in awake_command("linux", booted=tmp_path)][::5] == ["systemd-inhibit", "cat"]
    assert awake_command("linux", booted=tmp_path / "none") == ()
    assert awake_command("win32") == ()
    monkeypatch.setenv("PATH", "")
    assert awake_command("darwin") == ()
