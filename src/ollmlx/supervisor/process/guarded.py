"""Guards the processes of a command, such as the doctor: they end with it, whatever ends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ollmlx.supervisor.process import guardian


@contextmanager
def guarded_group(pid: int) -> Iterator[None]:
    """End the process group `pid` should this process end inside the context, also by SIGKILL.

    The daemon has one guardian for all of its processes; a command has few, and one guardian for each.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(guardian.__file__)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/", env={}, start_new_session=True,
    )  # fmt: skip
    assert keeper.stdin is not None
    try:
        keeper.stdin.write(f"+{pid} {guardian.process_start(pid) or '-'}\n".encode())
        keeper.stdin.flush()
        yield
    finally:
        with suppress(BrokenPipeError):
            keeper.stdin.write(f"-{pid}\n".encode())
        with suppress(BrokenPipeError):
            keeper.stdin.close()
        keeper.wait()
