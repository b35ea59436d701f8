"""The memory of a machine and of a process, on invented machines; and what keeps a machine awake."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollmlx.settings.model import MemorySettings
from ollmlx.supervisor import machine as machine_module
from ollmlx.supervisor.awake import AFTER, LINGER, Awake, awake_command
from ollmlx.supervisor.machine import GIB, MemoryBudget, ThisMachine, _memory_linux, find_budget, process_memory
from ollmlx.testing import eventually


class InventedMachine(ThisMachine):
    """A machine with these limits, in bytes."""

    def __init__(self, ram: int, container: int | None = None, working_set: int | None = None) -> None:
        super().__init__()
        self._limits = (ram, container, working_set)

    def ram(self) -> int:
        return self._limits[0]

    def container(self) -> int | None:
        return self._limits[1]

    def working_set(self) -> int | None:
        return self._limits[2]


@pytest.mark.parametrize(
    ("machine", "size", "of"),
    [
        (InventedMachine(16 * GIB), 8 * GIB, "RAM"),
        (InventedMachine(16 * GIB, container=4 * GIB), 2 * GIB, "the container's limit"),
        (InventedMachine(16 * GIB, working_set=12 * GIB), 6 * GIB, "Metal's working set"),
        (InventedMachine(16 * GIB, container=64 * GIB), 8 * GIB, "RAM"),
    ],
)
def test_auto_is_a_share_of_the_lowest_ceiling(machine: InventedMachine, size: int, of: str) -> None:
    found = find_budget(MemorySettings(share=0.5), machine)
    assert found.size == size
    assert of in found.reason


def test_a_limit_of_the_settings_is_the_budget() -> None:
    assert find_budget(MemorySettings.model_validate({"limit": "3GiB"}), InventedMachine(1)) == MemoryBudget(
        3 * GIB, "[memory] limit"
    )


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "2048\n",
                "sys/fs/cgroup/a/memory.max": "1024\n",
            },
            1024,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.high": "512\n"}, 512),
        ({"proc/self/cgroup": "3:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "99\n"}, 99),
        ({"proc/self/cgroup": "3:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ({"proc/self/cgroup": "0::/../up\n", "sys/fs/cgroup/memory.max": "77\n"}, 77),
    ],
)
def test_the_lowest_cgroup_limit_counts(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    write(tmp_path, files)
    assert ThisMachine(tmp_path).container() == limit


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"hw.memsize": 64 * GIB}, 48 * GIB),
        ({"hw.memsize": 24 * GIB}, 16 * GIB),
        ({"hw.memsize": 64 * GIB, "iogpu.wired_limit_mb": 57344}, 56 * GIB),
    ],
)
def test_metal_recommends_a_part_of_ram(monkeypatch: pytest.MonkeyPatch, values: dict[str, int], size: int) -> None:
    monkeypatch.setattr(machine_module, "PLATFORM", "darwin")
    assert ThisMachine(sysctl=values.get).working_set() == size


def test_without_metal_there_is_no_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "PLATFORM", "linux")
    assert ThisMachine().working_set() is None


def test_a_process_uses_memory_and_a_missing_process_none() -> None:
    own = process_memory(os.getpid())
    assert own is not None
    assert own > 1024 * 1024
    assert process_memory(2**22 + 1) is None


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    status = "RssAnon:\t    100 kB\nRssFile:\t 9000 kB\nRssShmem:\t     20 kB\n"
    write(tmp_path, {"7/status": status})
    assert _memory_linux(7, tmp_path) == 120 * 1024


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
