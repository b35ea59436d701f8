"""Requests on their way in: those that will ask for a runner, and have not asked yet.

Between its first line and its place in the queue a request waits for its turn and is parsed, which takes longer than
to turn one away. Who is counted here is sure of being looked at, so that of a crowd exactly those are let in for whom
there is room.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar

from ollmlx.supervisor.clock import Clock

ARRIVAL: ContextVar[Arrival | None] = ContextVar("ollmlx_arrival", default=None)
"""Of the connection whose request the running task serves."""
EXPECTED = 1.0
"""Seconds for which a request that was let in is expected. Bodies that come slowly, or never, shut nobody out."""


class Arrivals:
    """All that are on their way in. `len()` is their number."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: set[Arrival] = set()
        """For their turn."""
        self._coming: dict[Arrival, float] = {}
        """Since when, in order of time."""
        self._models: Counter[str] = Counter()

    def __len__(self) -> int:
        late = self._clock.monotonic() - EXPECTED
        while self._coming and next(iter(self._coming.values())) < late:
            self.discard(next(iter(self._coming)))
        return len(self._waiting) + len(self._coming)

    def of(self, model: str) -> int:
        """Those that ask for this model, as they spell it."""
        return self._models[model]

    def connection(self) -> Arrival:
        """For one connection: its requests come one after the other."""
        return Arrival(self)

    def add(self, arrival: Arrival) -> None:
        """It waits for its turn."""
        self._waiting.add(arrival)
        self._models[arrival.model] += 1

    def let_in(self, arrival: Arrival) -> None:
        """It has its turn."""
        if arrival in self._waiting:
            self._waiting.discard(arrival)
            self._coming[arrival] = self._clock.monotonic()

    def discard(self, arrival: Arrival) -> None:
        """It is expected no longer."""
        if arrival not in self._waiting and self._coming.pop(arrival, None) is None:
            return
        self._waiting.discard(arrival)
        self._models[arrival.model] -= 1
        if not self._models[arrival.model]:
            del self._models[arrival.model]


class Arrival:
    """The request that comes over one connection, and the model it asks for, as far as it can be seen."""

    __slots__ = ("_all", "model")

    def __init__(self, arrivals: Arrivals) -> None:
        self._all = arrivals
        self.model = ""

    def wait(self, model: str) -> None:
        """A request that needs a runner has come, and waits for its turn."""
        self._all.discard(self)
        self.model = model
        self._all.add(self)

    def come(self) -> None:
        """It has its turn."""
        self._all.let_in(self)

    def seen(self) -> None:
        """It has asked for its runner, or has ended without. May be repeated."""
        self._all.discard(self)


def seen() -> None:
    """The request that the running task serves, if it serves one, has asked for its runner, or has ended without."""
    arrival = ARRIVAL.get()
    if arrival is not None:
        arrival.seen()
