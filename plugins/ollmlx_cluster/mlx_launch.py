"""`python -m ollmlx_cluster.mlx_launch ARGUMENTS`: mlx.launch without its busy loop."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from ollmlx.protocol import ExitCode
from ollmlx.runner import tie

TICK: Final = 0.1
"""Seconds between two checks of whether a rank takes input."""


def main() -> NoReturn:
    threading.Thread(target=_end_with, args=(tie(),), daemon=True).start()
    from mlx._distributed_utils import launch

    # mlx.launch waits until a rank takes input, which is always true: its own select would keep a core busy.
    launch.select = select_without_spinning  # type: ignore[attr-defined, assignment]
    sys.exit(launch.main())


def select_without_spinning(
    read: Sequence[int], write: Sequence[int], errors: Sequence[int], timeout: float
) -> tuple[list[int], list[int], list[int]]:
    """Wait as `select.select`, but a writable descriptor does not end the wait; with one, wait for `TICK` at most."""
    readable, _, wrong = select.select(read, [], errors, min(timeout, TICK) if write else timeout)
    return readable, select.select([], write, [], 0)[1], wrong


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(ExitCode.PARENT_GONE)  # the end of their input ends the ranks


if __name__ == "__main__":
    main()
