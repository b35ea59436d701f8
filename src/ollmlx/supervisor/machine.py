"""Memory of this machine: the budget for all models together, and what one process uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ollmlx.settings.model import MemorySettings
from ollmlx.text.quantities import format_size

PLATFORM: str = sys.platform
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes for all models together, and a reason that explains the number to a person."""

    size: int
    reason: str


def find_budget(settings: MemorySettings, machine: ThisMachine) -> MemoryBudget:
    """Return `[memory] limit`, or a share of the lowest of RAM, the container's limit and Metal's working set."""
    if settings.limit != "auto":
        return MemoryBudget(settings.limit, "[memory] limit")
    ceilings = {
        "RAM": machine.ram(),
        "the container's limit": machine.container(),
        "Metal's working set": machine.working_set(),
    }
    name, lowest = min(((name, size) for name, size in ceilings.items() if size is not None), key=lambda pair: pair[1])
    return MemoryBudget(int(lowest * settings.share), f"{settings.share:.0%} of {name} ({format_size(lowest)})")


class ThisMachine:
    """The limits of memory on this machine, in bytes. `root` and `sysctl` are replaced in tests."""

    def __init__(self, root: Path = Path("/"), sysctl: Callable[[str], int | None] | None = None) -> None:
        self._root = root
        self._sysctl = sysctl or read_sysctl

    def ram(self) -> int:
        return int(psutil.virtual_memory().total)

    def container(self) -> int | None:
        """Return the lowest cgroup limit (v2 and v1) from the own group upwards. "max" and absurd values are none."""
        limits = [limit for limit in map(_read_limit, self._limit_files()) if limit is not None]
        return min(limits) if limits else None

    def working_set(self) -> int | None:
        """Return what Metal recommends: `iogpu.wired_limit_mb` where a person set it, else Apple's share of RAM."""
        if PLATFORM != "darwin":
            return None
        if configured := self._sysctl("iogpu.wired_limit_mb"):
            return configured * 1024 * 1024
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


def process_memory(pid: int) -> int | None:
    """Return the bytes that the system counts against a process, or None when the process has exited.

    Linux: anonymous and shared-memory pages; pages of mapped files (llama.cpp maps its weights) can be dropped at any
    time. macOS: the physical footprint that Activity Monitor shows; the resident size misses Metal's memory.
    """
    if PLATFORM == "linux":
        return _memory_linux(pid)
    if PLATFORM == "darwin":
        return _memory_darwin(pid)
    return _resident_size(pid)


def _memory_linux(pid: int, proc: Path = Path("/proc")) -> int | None:
    try:
        status = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in status.splitlines())}
    try:
        return 1024 * sum(int(sizes[name][0]) for name in ("RssAnon", "RssShmem"))
    except (KeyError, IndexError, ValueError):
        return _resident_size(pid)


def _memory_darwin(pid: int) -> int | None:
    # proc_pid_rusage(pid, RUSAGE_INFO_V0): 16 bytes of uuid, then uint64 fields; ri_phys_footprint is the eighth.
    import ctypes
    import struct

    buffer = ctypes.create_string_buffer(256)
    proc = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if proc.proc_pid_rusage(pid, 0, buffer) != 0:
        return None
    size: int = struct.unpack_from("<Q", buffer, 16 + 7 * 8)[0]
    return size


def _resident_size(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def listening_process(port: int) -> tuple[str, int] | None:
    """Return name and id of the process that listens on a TCP port; None if there is none, or the system hides it."""
    try:
        found = psutil.net_connections("tcp")
        own = (one for one in found if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port)
        return next(((psutil.Process(one.pid).name(), one.pid) for one in own if one.pid), None)
    except (psutil.Error, OSError):  # macOS shows other users' sockets to root only
        return None


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 2**60 else None


def read_sysctl(name: str) -> int | None:
    """Return a number that macOS keeps under a name, or None when it has none."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=2, check=True, cwd="/")
        return int(done.stdout)
    return None
