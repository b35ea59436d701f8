"""Requests on their way in: those that were let in to ask for a runner, and have not asked yet.

Between its turn and its place in the queue a request is parsed, which takes longer than to turn one away. Who is
counted here is sure of being looked at, so that of a crowd exactly those are let in for whom there is room.
"""

from __future__ import annotations

from contextvars import ContextVar

from ollmlx.supervisor.clock import Clock

ARRIVAL: ContextVar[Arrival | None] = ContextVar("ollmlx_arrival", default=None)
"""Of the connection whose request the running task serves."""
EXPECTED = 1.0
"""Seconds for which a request is expected. Bodies that come slowly, or never, must not shut others out."""


class Arrivals:
    """All that are on their way in. `len()` is their number."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._coming: dict[Arrival, float] = {}

    def __len__(self) -> int:
        late = self._clock.monotonic() - EXPECTED
        while self._coming and next(iter(self._coming.values())) < late:
            del self._coming[next(iter(self._coming))]
        return len(self._coming)

    def connection(self) -> Arrival:
        """For one connection: its requests come one after the other."""
        return Arrival(self)

    def add(self, arrival: Arrival) -> None:
        self._coming.pop(arrival, None)
        self._coming[arrival] = self._clock.monotonic()  # in order of time

    def discard(self, arrival: Arrival) -> None:
        self._coming.pop(arrival, None)


class Arrival:
    """The request that comes over one connection."""

    __slots__ = ("_all",)

    def __init__(self, arrivals: Arrivals) -> None:
        self._all = arrivals

    def come(self) -> None:
        """A request that needs a runner is let in."""
        self._all.add(self)

    def seen(self) -> None:
        """It has asked for its runner, or has ended without. May be repeated."""
        self._all.discard(self)


def seen() -> None:
    """The request that the running task serves, if it serves one, has asked for its runner, or has ended without."""
    arrival = ARRIVAL.get()
    if arrival is not None:
        arrival.seen()
