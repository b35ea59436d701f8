"""Who a process is. A process id alone is reused; with its start time and the boot it belongs to, it is not.

Standard library only: the guardian, which runs without any package, loads this file by its path.
"""

from __future__ import annotations

import sys

PLATFORM: str = sys.platform  # a plain variable, so that tests and type checkers see every branch


def started(pid: int) -> str | None:
    """When the process started, as an opaque text that never changes for it. None: no such process (or a zombie)."""
    if PLATFORM == "linux":
        return _started_linux(pid)
    if PLATFORM == "darwin":
        return _started_darwin(pid)
    return None


def boot() -> str:
    """Which boot of the machine this is, as an opaque text."""
    if PLATFORM == "linux":
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
                return file.read().strip()
        except OSError:
            return "unknown"
    if PLATFORM == "darwin":
        return _sysctl_text(b"kern.bootsessionuuid") or "unknown"
    return "unknown"


def _started_linux(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _started_darwin(pid: int) -> str | None:
    # 3 is PROC_PIDTBSDINFO; struct proc_bsdinfo has 136 bytes: pbi_status at 4, pbi_start_tvsec at 120, _tvusec at 128.
    import ctypes
    import struct

    buffer = ctypes.create_string_buffer(136)
    proc = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if proc.proc_pidinfo(pid, 3, ctypes.c_uint64(0), buffer, len(buffer)) != len(buffer):
        return None
    status = struct.unpack_from("<I", buffer, 4)[0]
    seconds, micros = struct.unpack_from("<QQ", buffer, 120)
    return None if status == 5 else f"{seconds}.{micros:06d}"  # 5 = SZOMB


def _sysctl_text(name: bytes) -> str | None:
    import ctypes

    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sysctlbyname(name, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.value.decode("ascii", "replace")
