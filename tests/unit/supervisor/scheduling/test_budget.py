"""The memory budget, on machines that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx.settings import MemorySettings
from ollmlx.supervisor.scheduling import budget
from ollmlx.supervisor.scheduling.budget import GIB, Budget, ThisMachine, find_budget


class Machine:
    """Limits as a test wants them."""

    def __init__(self, ram: int, container: int | None = None, working_set: int | None = None) -> None:
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
        (Machine(16 * GIB), 8 * GIB, "RAM"),
        (Machine(16 * GIB, container=4 * GIB), 2 * GIB, "the container's limit"),
        (Machine(16 * GIB, working_set=12 * GIB), 6 * GIB, "Metal's working set"),
        (Machine(16 * GIB, container=64 * GIB), 8 * GIB, "RAM"),
    ],
)
def test_auto_is_a_share_of_the_lowest_ceiling(machine: Machine, size: int, of: str) -> None:
    found = find_budget(MemorySettings(share=0.5), machine)
    assert found.size == size
    assert of in found.reason


def test_a_stated_limit_is_taken_as_it_is() -> None:
    assert find_budget(MemorySettings.model_validate({"limit": "3GiB"}), Machine(1)) == Budget(
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
def test_the_lowest_cgroup_limit_on_the_way_up_counts(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
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
    monkeypatch.setattr(budget, "PLATFORM", "darwin")
    assert ThisMachine(sysctl=values.get).working_set() == size


def test_without_metal_there_is_no_working_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PLATFORM", "linux")
    assert ThisMachine().working_set() is None
