"""`python -m ollmlx_cluster.mlx_launch ARGUMENTS`: mlx.launch, which idles while nothing happens."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

from ollmlx.protocol import ExitCode
from ollmlx.runner import program

TICK = 0.1
"""Seconds between two looks at whether a rank takes input."""


def main() -> NoReturn:
    """Run mlx.launch with the arguments of this program."""
    threading.Thread(target=_end_with, args=(program.tie(),), daemon=True).start()
    from mlx._distributed_utils import launch

    # It waits for each rank to take input, which is always: with select itself it would keep a core busy for each.
    launch.select = calm  # type: ignore[attr-defined, assignment]
    sys.exit(launch.main())


def calm(
    read: Sequence[int], write: Sequence[int], errors: Sequence[int], timeout: float
) -> tuple[list[int], list[int], list[int]]:
    """As `select.select`, but what can be written to does not end the wait; asked for that, it waits for a tick."""
    readable, _, wrong = select.select(read, [], errors, min(timeout, TICK) if write else timeout)
    return readable, select.select([], write, [], 0)[1], wrong


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(ExitCode.PARENT_GONE)  # the ranks notice the end of their input


if __name__ == "__main__":
    main()
