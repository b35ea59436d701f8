"""The guardian: a small process that ends what a daemon left running, and how a process is identified.

Runs by path, with the standard library only: `python -I -S guardian.py FOLDER`. Standard input carries the
lines `+PID START` (guard this process group; its id is PID) and `-PID` (guard it no longer). End of file means that the
daemon has exited, for whatever reason. Then every guarded group gets TERM, two seconds later KILL, and FOLDER, which
holds the sockets, is removed.

A process id alone is reused by the system. With the start time and the boot it is unique.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

GRACE = 2.0
PLATFORM: str = sys.platform  # a plain variable, so that tests and type checkers see every branch


def process_start(pid: int) -> str | None:
    """Return an opaque text that never changes for a process. None: it does not exist, or is a zombie."""
    if PLATFORM == "linux":
        return _start_linux(pid)
    if PLATFORM == "darwin":
        return _start_darwin(pid)
    return None


def boot_id() -> str:
    """Return an opaque text for the present boot of the machine."""
    if PLATFORM == "linux":
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
                return file.read().strip()
        except OSError:
            return "unknown"
    if PLATFORM == "darwin":
        return _sysctl_text(b"kern.bootsessionuuid") or "unknown"
    return "unknown"


def read_groups(lines: Iterable[bytes]) -> dict[int, str]:
    """Follow the daemon's lines until they end. Return the groups that are then still guarded, with their starts."""
    groups: dict[int, str] = {}
    for line in lines:
        words = line.decode("ascii", "replace").split()
        if len(words) == 2 and words[0].startswith("+"):
            groups[int(words[0][1:])] = words[1]
        elif len(words) == 1 and words[0].startswith("-"):
            groups.pop(int(words[0][1:]), None)
    return groups


def end_groups(groups: dict[int, str], start_of: Callable[[int], str | None], grace: float = GRACE) -> None:
    """Send TERM, then KILL, to every group whose leader is the recorded process or has exited before its members."""
    ours = {pid: start for pid, start in groups.items() if start_of(pid) in (start, None)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in ours:
            _signal(pid, number)
        deadline = time.monotonic() + grace
        while number == signal.SIGTERM and time.monotonic() < deadline and any(_signal(pid, 0) for pid in ours):
            time.sleep(0.02)


def _signal(group: int, number: int) -> bool:
    # ProcessLookupError: the group is empty. PermissionError: on macOS also a group that has only zombies.
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _start_linux(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name in parentheses may hold anything
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _start_darwin(pid: int) -> str | None:
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


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stdin:
        groups = read_groups(iter(stdin.readline, b""))
    end_groups(groups, process_start)
    if len(sys.argv) > 1:
        import shutil

        shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
