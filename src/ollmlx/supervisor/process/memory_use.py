"""How much memory a process really uses, as the system that would end it counts."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

PLATFORM: str = sys.platform


def footprint(pid: int) -> int | None:
    """Bytes, or None when the process is gone.

    Linux: anonymous and shared-memory pages; pages of mapped files (llama.cpp maps its weights) can be dropped at any
    time. macOS: the physical footprint that Activity Monitor shows; the resident size misses Metal's memory.
    """
    if PLATFORM == "linux":
        return _linux(pid)
    if PLATFORM == "darwin":
        return _darwin(pid)
    return _resident(pid)


def _linux(pid: int, proc: Path = Path("/proc")) -> int | None:
    try:
        status = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    sizes = {name: rest.split() for name, _, rest in (line.partition(":") for line in status.splitlines())}
    try:
        return 1024 * sum(int(sizes[name][0]) for name in ("RssAnon", "RssShmem"))
    except (KeyError, IndexError, ValueError):
        return _resident(pid)


def _darwin(pid: int) -> int | None:
    # proc_pid_rusage(pid, RUSAGE_INFO_V0): 16 bytes of uuid, then uint64 fields; ri_phys_footprint is the eighth.
    import ctypes
    import struct

    buffer = ctypes.create_string_buffer(256)
    proc = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if proc.proc_pid_rusage(pid, 0, buffer) != 0:
        return None
    size: int = struct.unpack_from("<Q", buffer, 16 + 7 * 8)[0]
    return size


def _resident(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
