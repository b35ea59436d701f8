"""The machine as plain values. Checks read these and do not ask the operating system themselves."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_NVIDIA = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg")
_NVIDIA_VENDOR = "0x10de"


@dataclass(frozen=True)
class Disk:
    """The size of a file system and its free space, in bytes."""

    total: int
    free: int


def disk_of(path: Path) -> Disk | None:
    """Return the file system of a path, or of its nearest folder that exists."""
    for folder in (path, *path.parents):
        with suppress(OSError):
            usage = shutil.disk_usage(folder)
            return Disk(usage.total, usage.free)
    return None


@dataclass(frozen=True)
class Machine:
    """The properties of a machine. Sizes are in bytes; None means unknown, or not present on this machine.

    `system`: sys.platform. `architecture`: the output of `uname -m`. `rosetta`: Rosetta translates this process.
    `wired_limit`: iogpu.wired_limit_mb in bytes, 0 if macOS decides. `nvidia_gpu`: an NVIDIA card is on the bus.
    `nvidia_driver`: the version of its driver. `files_limit`: the number of files that this process may open.
    """

    system: str
    architecture: str = "x86_64"
    python: tuple[int, int, int] = (3, 11, 0)
    implementation: str = "CPython"
    bits: int = 64
    macos: tuple[int, ...] = ()
    rosetta: bool = False
    cores: int = 1
    ram: int = 0
    available: int = 0
    swap_total: int = 0
    swap_used: int = 0
    container_limit: int | None = None
    wired_limit: int | None = None
    nvidia_gpu: bool = False
    nvidia_driver: str | None = None
    files_limit: int | None = None
    disk: Callable[[Path], Disk | None] = disk_of

    @classmethod
    def here(cls, root: Path = Path("/")) -> Machine:
        """Return the machine that this process runs on."""
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        mac = sys.platform == "darwin"
        return cls(
            system=sys.platform,
            architecture=platform.machine(),
            python=sys.version_info[:3],
            implementation=platform.python_implementation(),
            bits=64 if sys.maxsize > 2**32 else 32,
            macos=_numbers(platform.mac_ver()[0]) if mac else (),
            rosetta=mac and _sysctl("sysctl.proc_translated") == 1,
            cores=os.cpu_count() or 1,
            ram=int(memory.total),
            available=int(memory.available),
            swap_total=int(swap.total),
            swap_used=int(swap.used),
            container_limit=container_limit(root),
            wired_limit=(_sysctl("iogpu.wired_limit_mb") or 0) * 1024 * 1024 if mac else None,
            nvidia_gpu=has_nvidia_gpu(root),
            nvidia_driver=nvidia_driver(root),
            files_limit=_files_limit(),
        )


def container_limit(root: Path) -> int | None:
    """Return the memory limit of this process's control group (cgroup version 2 or 1), in bytes."""
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limit = int((root / name).read_text(encoding="ascii").strip())
            return limit if limit < 2**60 else None
    return None


def has_nvidia_gpu(root: Path) -> bool:
    """Return True if an NVIDIA card is on the bus, or its driver is loaded."""
    if any((root / name).exists() for name in _NVIDIA):
        return True
    for vendor in (root / "sys/bus/pci/devices").glob("*/vendor"):
        with suppress(OSError):
            kind = (vendor.parent / "class").read_text(encoding="ascii")
            if vendor.read_text(encoding="ascii").strip() == _NVIDIA_VENDOR and kind.startswith("0x03"):
                return True
    return False


def nvidia_driver(root: Path) -> str | None:
    """Return the version of NVIDIA's driver, as the kernel reports it."""
    with suppress(OSError):
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
        return match.group(1) if match else None
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _files_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _sysctl(name: str) -> int | None:
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=2, check=True)
        return int(done.stdout)
    return None
