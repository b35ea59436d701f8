"""Ties this process to the one that started it: when the parent is gone, so are we, whatever it died of.

Three ties, each with a gap that another one covers: the kernel's parent-death signal (Linux only), end-of-file on
standard input (needs the interpreter lock), a changed parent process id (the same, and polled). A process whose
interpreter is stuck in native code on macOS is ended by the daemon's guardian.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from contextlib import suppress

PARENT_GONE = 86
"""`ollmlx.protocol.ExitCode.PARENT_GONE`; repeated here because this file is imported before anything else."""

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def tie(parent: int | None = None) -> int:
    """Ask the kernel to kill us with our parent, and return the parent's process id.

    `parent` is the process id we expect, when the parent told us; it may have died before we ran. Never compared with
    1: a subreaper or a container's init adopts orphans under other numbers. Linux only; elsewhere it only checks.
    """
    before = os.getppid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != (before if parent is None else parent):
        os._exit(PARENT_GONE)
    return before


def watch(parent: int, stdin: int = 0) -> threading.Thread:
    """Exit at once when standard input ends or the parent changes. The thread never returns."""
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
    """Leave no core dump (it would hold prompts), create private files, and let the kernel pick us before the daemon.

    What the platform refuses is left as it is: none of it is needed to work.
    """
    import resource

    os.umask(0o077)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
            score.write("500")
