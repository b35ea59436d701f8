"""Ties this process to its parent: it ends when the parent has ended, for whatever reason.

There are three ties, and each covers a gap of another: the kernel's parent-death signal (Linux only), end-of-file on
standard input (needs the interpreter lock), a changed parent process id (the same, and polled). On macOS a process
whose interpreter is stuck in native code is ended by the daemon's guardian.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import suppress

PARENT_GONE = 86
"""`ollmlx.protocol.ExitCode.PARENT_GONE`, repeated because this file is imported before anything else."""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def tie(parent: int | None = None) -> int:
    """Ask the kernel to kill this process when its parent ends, and return the parent's process id.

    Exit at once when the parent has ended already. `parent` is its process id, when it was passed on. It is never
    compared with 1: a subreaper or a container's init adopts orphans under other numbers. The kernel is asked on
    Linux only.
    """
    before = os.getppid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != (before if parent is None else parent):
        os._exit(PARENT_GONE)
    return before


def watch(parent: int, stdin: int = 0) -> threading.Thread:
    """Start a thread that exits the process when standard input ends or the parent changes."""
    thread = threading.Thread(target=_watch, args=(parent, stdin), name="parent-watch", daemon=True)
    thread.start()
    return thread


def _watch(parent: int, stdin: int) -> None:
    while os.getppid() == parent:
        readable, _, _ = select.select([stdin], [], [], _POLL_SECONDS)
        if readable and not os.read(stdin, 65536):
            break
    os._exit(PARENT_GONE)


def confine() -> None:
    """Turn off core dumps (they would hold prompts), make new files private, let the kernel kill us before the daemon.

    A setting that the platform refuses is skipped: none is needed to work.
    """
    import resource

    os.umask(0o077)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
            score.write("500")
