"""The clock and the figures of the supervisor; a test passes its own.

Monotonic time is used for every decision, wall-clock time only for display.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

MIB = 1024 * 1024


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Do not run the callback. Does nothing when it ran already."""


class Clock(Protocol):
    """Time as an injected object, so that tests move it by hand."""

    def monotonic(self) -> float:
        """Return seconds that never jump."""

    def now(self) -> datetime:
        """Return wall-clock time with a time zone, for people."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the event loop after `delay` seconds."""

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""


class SystemClock:
    """The clock of the machine. Use it on a running event loop."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Figures that no user has a reason to change. Durations in seconds, sizes in bytes."""

    probe_interval: float = 1.0
    """Time between two health probes of a runner."""
    stop_timeout: float = 5.0
    """Time between asking a runner to stop and killing it."""
    swap_wait: float = 5.0
    """Requests for a loaded model may pass one that would evict the model for at most this long."""
    hard_share: float = 1.5
    """A runner that uses more than this multiple of its reservation is killed, but see `slack`."""
    slack: int = 512 * MIB
    """A runner may exceed its reservation by this much before `hard_share` applies."""
    soft_share: float = 0.85
    """A runner above this share of its hard limit gets no new requests and drops its caches."""
