"""The guardian: a tiny process that outlives the daemon by seconds and ends what it left behind.

Run by path, without packages: `python -I -S guardian.py IDENTITY.py FOLDER`. Standard input carries lines
`+PID START` (a process group to guard; its id is PID) and `-PID`. End of file means that the daemon is gone, whatever
killed it: every guarded group gets TERM, two seconds later KILL, and the folder with the sockets is removed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

GRACE = 2.0
Started = Callable[[int], str | None]


def read(lines: Iterable[bytes]) -> dict[int, str]:
    """Follow the daemon's orders until they end; returns the groups that are then still guarded."""
    groups: dict[int, str] = {}
    for line in lines:
        words = line.decode("ascii", "replace").split()
        if len(words) == 2 and words[0].startswith("+"):
            groups[int(words[0][1:])] = words[1]
        elif len(words) == 1 and words[0].startswith("-"):
            groups.pop(int(words[0][1:]), None)
    return groups


def end(groups: dict[int, str], started: Started, grace: float = GRACE) -> None:
    """TERM, then KILL, for every group whose leader is still who it was, or is gone while members live."""
    ours = {pid: start for pid, start in groups.items() if started(pid) in (start, None)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in ours:
            _signal(pid, number)
        deadline = time.monotonic() + grace
        while number == signal.SIGTERM and time.monotonic() < deadline and any(map(_alive, ours)):
            time.sleep(0.02)


def _signal(group: int, number: int) -> None:
    # ESRCH: nobody is left. EPERM: on macOS also a group of zombies only.
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    import importlib.util

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    spec = importlib.util.spec_from_file_location("identity", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    identity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(identity)
    with os.fdopen(0, "rb", buffering=0, closefd=False) as orders:
        groups = read(iter(orders.readline, b""))
    end(groups, identity.started)
    if len(sys.argv) > 2:
        import shutil

        shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
