"""Ending well: refuse new work, let running answers finish for a while, then end each with an error record."""

from __future__ import annotations

import asyncio

from ollmlx.errors import Busy
from ollmlx.web.exchange import Exchange

RETRY_AFTER = 5.0  # seconds; a restarted daemon is back by then


class Drain:
    """The daemon's last phase. `begin` once, `idle` to wait, `end` to stop waiting."""

    def __init__(self) -> None:
        self.draining = False
        self.ended = False
        self._running: set[Exchange] = set()
        self._changed = asyncio.Event()

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

    def begin(self) -> None:
        """From now on new work is refused."""
        self.draining = True

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
        return Busy("the server is shutting down", retry_after=RETRY_AFTER)
