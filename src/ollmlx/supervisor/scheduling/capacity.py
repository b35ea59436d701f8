"""The refusal of a request that finds the queue full."""

from __future__ import annotations

import math

from ollmlx.errors import Busy

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's words, both spaces included: clients compare them."""
FIRST_GUESS = 2.0
"""Seconds that a request holds its slot, until one has been measured."""
NEWEST_SHARE = 0.1
"""Weight of the newest request in the moving average, once there are enough of them."""
MAX_RETRY_AFTER = 300.0


class RetryEstimate:
    """Estimates when a slot will be free, from a moving average of how long requests hold theirs."""

    def __init__(self) -> None:
        self._seconds = FIRST_GUESS
        self._measured = 0

    def note(self, seconds: float) -> None:
        """Add one request, which held its slot for this long, to the average."""
        self._measured += 1
        self._seconds += max(NEWEST_SHARE, 1 / self._measured) * (seconds - self._seconds)

    def queue_full(self, pending: int, slots: int) -> Busy:
        """Return the error, with the seconds until `slots` will have served the `pending` requests."""
        wait = math.ceil(self._seconds * pending / max(1, slots))
        return Busy(QUEUE_FULL, retry_after=min(MAX_RETRY_AFTER, max(1.0, wait)))
