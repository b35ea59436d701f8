"""Waiting threads of llama.cpp: they spin where cores are free, and soon sleep where other programs compute.

libgomp, which runs them, lets a thread look 300,000 times before it sleeps, but only 100 times while the process has
more OpenMP threads than cores. So threads that do nothing switch from the one to the other, while llama.cpp computes.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import psutil

SECONDS: Final = 0.1
"""Time between two looks at the machine while requests run. Between them nobody looks: the limit stays as it was."""
BUSY, FREE = 0.5, 0.25
"""Cores that others use of those on which llama.cpp computes, from which threads sleep, and below which they spin."""
_BUSY_FIELDS: Final = ("user", "system", "irq", "softirq", "steal")
"""Not `nice`: what runs at a lower priority gives its core away."""

Team = Callable[[int], object]
"""Starts as many OpenMP threads, which end with the thread that calls it."""


class SpinLimit:
    """Limits the spinning of llama.cpp's `threads` on so many `cores` while others compute. Used on one thread."""

    def __init__(self, team: Team, threads: int, cores: int) -> None:
        self._team = team
        self._spare = max(0, cores - threads)
        self._release: threading.Event | None = None

    @property
    def limited(self) -> bool:
        """True while threads soon sleep."""
        return self._release is not None

    def note(self, others: float) -> None:
        """Limit the spinning, or no longer, now that others use this many cores."""
        wanted = others - self._spare
        if self._release is None and wanted > BUSY:
            self._release = threading.Event()
            threading.Thread(target=self._hold, args=(self._release,), name="spin-limit", daemon=True).start()
        elif self._release is not None and wanted < FREE:
            self.end()

    def end(self) -> None:
        """Let threads spin again."""
        if self._release is not None:
            self._release.set()
            self._release = None

    def _hold(self, release: threading.Event) -> None:
        self._team(self._spare + 2)
        release.wait()


async def watch(limit: SpinLimit, seconds: float = SECONDS) -> None:
    """Tell a limit again and again how many cores other processes use. The daemon is not one of them."""
    runner = psutil.Process()
    own = [process for process in (runner, runner.parent()) if process is not None]
    before, since = _used(own), time.monotonic()
    while True:
        await asyncio.sleep(seconds)
        used, now = _used(own), time.monotonic()
        limit.note((used - before) / (now - since))
        before, since = used, now


def openmp_team(library: str) -> Team | None:
    """Return what starts threads of the libgomp with which a library was linked; None if it was not."""
    parallel: Any = getattr(ctypes.CDLL(library), "GOMP_parallel", None)
    if parallel is None:
        return None
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # a function that does nothing with NULL
    return lambda count: parallel(nothing, None, ctypes.c_uint(count), ctypes.c_uint(0))


def _used(own: list[psutil.Process]) -> float:
    """Return the processor seconds that other processes have used."""
    times = psutil.cpu_times()
    total = sum(getattr(times, name, 0.0) for name in _BUSY_FIELDS)
    for process in own:
        used = process.cpu_times()
        total -= used.user + used.system
    return float(total)
