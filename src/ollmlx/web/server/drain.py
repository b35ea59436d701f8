"""The end of a daemon: new requests are refused, running ones may finish for a while, the rest get an error record."""

from __future__ import annotations

import asyncio
import math
import time

from ollmlx.errors import Busy
from ollmlx.web.context import RequestContext

RETRY_AFTER = 5.0  # seconds; a daemon that is started again is ready by then
STOPPING = "the server is shutting down"


class Drain:
    """Counts running requests. Call `begin` once, `idle` to wait for them, `end` to stop waiting."""

    def __init__(self) -> None:
        self.draining = False
        self.ended = False
        self._running: set[RequestContext] = set()
        self._changed = asyncio.Event()
        self._until = 0.0

    @property
    def running(self) -> int:
        """The number of requests that are being served."""
        return len(self._running)

    @property
    def requests(self) -> tuple[RequestContext, ...]:
        """The requests that are being served, the oldest first."""
        return tuple(sorted(self._running, key=lambda context: context.started_ns))

    def enter(self, context: RequestContext) -> None:
        """Count a request that has arrived. Requests that arrive during the drain are not waited for."""
        if not self.draining:
            self._running.add(context)

    def leave(self, context: RequestContext) -> None:
        """Count a request that has ended."""
        self._running.discard(context)
        self._changed.set()

    def begin(self, timeout: float = 0.0) -> None:
        """Refuse new work from now on. Running requests may go on for `timeout` seconds, which may be infinite."""
        self.draining = True
        self._until = time.monotonic() + timeout

    def status(self) -> str:
        """Return why new work is refused, and for how long running requests may go on; empty before the drain."""
        if not self.draining:
            return ""
        left = self._until - time.monotonic()
        if self.ended or left <= 0 or not self._running:
            return STOPPING
        requests = "1 running request" if self.running == 1 else f"{self.running} running requests"
        return f"{STOPPING}; {requests} may go on" + (f" for another {left:.0f} s" if math.isfinite(left) else "")

    async def idle(self, timeout: float) -> bool:
        """Wait until no request is running, for at most `timeout` seconds. Returns False when some still are."""
        try:
            async with asyncio.timeout(timeout):
                while self._running:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """Cancel running requests: each stream sends an error record, each other request is answered with 503."""
        self.ended = True
        for context in self._running:
            if context.task is not None:
                context.task.cancel()

    def refusal(self) -> Busy:
        """Return the error of new and of cancelled requests."""
        return Busy(STOPPING, retry_after=RETRY_AFTER)
