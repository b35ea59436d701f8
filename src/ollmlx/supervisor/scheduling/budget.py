"""How much memory all models together may use on this machine. The machine is injected, so every kind can be tested."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from ollmlx.settings import MemorySettings
from ollmlx.text.quantities import format_size

PLATFORM: str = sys.platform
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes, and where the number comes from, for people."""

    size: int
    reason: str


class Machine(Protocol):
    """What limits memory here; None where a limit does not exist. Sizes in bytes."""

    def ram(self) -> int: ...
    def container(self) -> int | None: ...
    def working_set(self) -> int | None: ...


def find_budget(settings: MemorySettings, machine: Machine) -> Budget:
    """`[memory] limit`, or a share of the lowest of RAM, the container's limit and Metal's recommended working set."""
    if settings.limit != "auto":
        return Budget(settings.limit, "[memory] limit")
    ceilings = {
        "RAM": machine.ram(),
        "the container's limit": machine.container(),
        "Metal's working set": machine.working_set(),
    }
    name, lowest = min(((name, size) for name, size in ceilings.items() if size is not None), key=lambda pair: pair[1])
    return Budget(int(lowest * settings.share), f"{settings.share:.0%} of {name} ({format_size(lowest)})")


class ThisMachine:
    """The real one."""

    def __init__(self, root: Path = Path("/"), sysctl: Callable[[str], int | None] | None = None) -> None:
        self._root = root
        self._sysctl = sysctl or _sysctl

    def ram(self) -> int:
        return int(psutil.virtual_memory().total)

    def container(self) -> int | None:
        """The lowest cgroup limit on the way up from our own group (v2 and v1); "max" and absurd values are none."""
        limits = [limit for limit in map(_limit, self._limit_files()) if limit is not None]
        return min(limits) if limits else None

    def working_set(self) -> int | None:
        """What Metal recommends: a `iogpu.wired_limit_mb` that somebody set, else Apple's default share of RAM."""
        if PLATFORM != "darwin":
            return None
        if asked := self._sysctl("iogpu.wired_limit_mb"):
            return asked * 1024 * 1024
        ram = self._sysctl("hw.memsize") or self.ram()
        return ram * 3 // 4 if ram > 36 * GIB else ram * 2 // 3

    def _limit_files(self) -> Iterator[Path]:
        try:
            lines = (self._root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return
        mount = self._root / "sys/fs/cgroup"
        for line in lines:
            _, controllers, own = line.split(":", 2)
            if controllers == "":
                top, names = mount, ["memory.max", "memory.high"]
            elif "memory" in controllers.split(","):
                top, names = mount / "memory", ["memory.limit_in_bytes"]
            else:
                continue
            group = top / own.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top):
                    break
                yield from (folder / name for name in names)


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 2**60 else None


def _sysctl(name: str) -> int | None:
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=2, check=True)
        return int(done.stdout)
    return None
