"""Ending well: refuse new work, let running answers finish for a while, then end each with an error record."""

from __future__ import annotations

import asyncio
import math
import time

from ollmlx.errors import Busy
from ollmlx.web.context import Exchange

RETRY_AFTER = 5.0  # seconds; a restarted daemon is back by then
STOPPING = "the server is shutting down"


class Drain:
    """The daemon's last phase. `begin` once, `idle` to wait, `end` to stop waiting."""

    def __init__(self) -> None:
        self.draining = False
        self.ended = False
        self._running: set[Exchange] = set()
        self._changed = asyncio.Event()
        self._until = 0.0

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    def enter(self, exchange: Exchange) -> None:
        """A request has come. What comes while draining is refused, or a short question: nobody waits for it."""
        if not self.draining:
            self._running.add(exchange)

    def leave(self, exchange: Exchange) -> None:
        self._running.discard(exchange)
        self._changed.set()

    def begin(self, patience: float = 0.0) -> None:
        """From now on new work is refused; what runs has so many seconds, which may be without end."""
        self.draining = True
        self._until = time.monotonic() + patience

    def story(self) -> str:
        """Why new work is refused, and for how long the old may keep the daemon; empty while work is taken."""
        if not self.draining:
            return ""
        left = self._until - time.monotonic()
        if self.ended or left <= 0 or not self._running:
            return STOPPING
        what = "1 running request" if self.running == 1 else f"{self.running} running requests"
        return f"{STOPPING}; {what} may go on" + (f" for another {left:.0f} s" if math.isfinite(left) else "")

    async def idle(self, timeout: float) -> bool:
        """Wait until nothing is being answered, for at most `timeout` seconds. Whether that came about."""
        try:
            async with asyncio.timeout(timeout):
                while self._running:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """Interrupt what still runs: each stream sends its error record, each other request is answered 503."""
        self.ended = True
        for exchange in self._running:
            if exchange.task is not None:
                exchange.task.cancel()

    def refusal(self) -> Busy:
        """What new and interrupted work is told."""
        return Busy(STOPPING, retry_after=RETRY_AFTER)
