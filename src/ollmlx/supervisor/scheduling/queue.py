"""The pending requests: which is next, and when a refused one may succeed. Pure, but for the futures it hands out."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ollmlx.errors import Busy, OllmlxError
from ollmlx.launch.spec import LaunchSpec
from ollmlx.supervisor.scheduling.pool_entry import PoolEntry
from ollmlx.types import Caller

LEVELS = {"high": 0, "normal": 1, "low": 2}
AGEING = 30.0
"""After each such time in the queue, a request counts as one priority higher: low is late, never starved."""
QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's words, both spaces included: clients compare them."""
FIRST_GUESS = 2.0
"""Seconds that a request holds its slot, until one has been measured."""
NEWEST_SHARE = 0.1
"""Weight of the newest request in the moving average, once there are enough of them."""
MAX_RETRY_AFTER = 300.0

_LineKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """One pending request, for metrics and people. `waited` in seconds; the request at `position` 1 is next."""

    model: str
    client: str
    priority: str
    waited: float
    position: int


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One request in the queue. `arrived` is monotonic. The future gets the runner, or the error, for the request."""

    spec: LaunchSpec
    caller: Caller
    arrived: float
    future: asyncio.Future[PoolEntry] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def level(self, now: float) -> int:
        """Return its priority at this time, 0 highest."""
        return max(0, LEVELS[self.caller.priority] - int((now - self.arrived) // AGEING))

    def fail(self, error: OllmlxError) -> None:
        """End the wait with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class PendingRequests:
    """A round-robin share for each client within each priority; first come, first served within one client.

    Requests of one model, client, priority and context length form a line. Its first request is the oldest and has aged
    most. So adding, removing and finding the next request costs nothing that grows with the length of a line.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[_LineKey, dict[PendingRequest, None]]] = {}
        """By launch key, then by what else the requests of a line share; a line is in order of arrival."""
        self._turns: dict[str, int] = {}
        """By client with pending requests; the client with the lowest number is next."""
        self._numbers = itertools.count()
        self._by_key: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._by_key.total()

    def count(self, key: str) -> int:
        """Return how many requests wait for this model."""
        return self._by_key[key]

    def add(self, request: PendingRequest) -> None:
        """Put a request at the end of its line."""
        key, client = request.spec.key, request.caller.client
        self._lines.setdefault(key, {}).setdefault(_line_key(request), {})[request] = None
        if client not in self._turns:
            self._turns[client] = next(self._numbers)
        self._by_key[key] += 1
        self._by_client[client] += 1

    def remove(self, request: PendingRequest, *, served: bool = False) -> None:
        """Take a request out. A client whose request was served goes to the end of the round."""
        key, client = request.spec.key, request.caller.client
        lines = self._lines.get(key, {})
        line = lines.get(_line_key(request), {})
        if request not in line:
            return
        del line[request]
        if not line:
            del lines[_line_key(request)]
        if not lines:
            del self._lines[key]
        _decrement(self._by_key, key)
        _decrement(self._by_client, client)
        if client not in self._by_client:
            del self._turns[client]
        elif served:
            self._turns[client] = next(self._numbers)

    def next(
        self, key: str, now: float, fits: Callable[[LaunchSpec], bool] = lambda spec: True
    ) -> PendingRequest | None:
        """Return the request that gets the next free slot of this model, among those whose spec fits."""
        fitting = (head for head in self._heads(key) if fits(head.spec))
        turns = self._turns
        return min(fitting, key=lambda one: (one.level(now), turns[one.caller.client], one.arrived), default=None)

    def keys(self, now: float) -> list[str]:
        """Return the launch keys with pending requests, the key of the next request first."""
        if len(self._lines) < 2:
            return list(self._lines)
        heads = (head for key in self._lines for head in self._heads(key))
        return list(dict.fromkeys(request.spec.key for request in self._ranked(heads, now)))

    def level(self, key: str, now: float) -> int:
        """Return the best priority among the requests for this model, 0 highest; `len(LEVELS)` without any."""
        return min((head.level(now) for head in self._heads(key)), default=len(LEVELS))

    def since(self, key: str) -> float:
        """Return when the oldest request for this model arrived."""
        return min(head.arrived for head in self._heads(key))

    def longest(self, key: str) -> LaunchSpec:
        """Return the spec that serves every request for this model: the one with the longest context."""
        return max((head.spec for head in self._heads(key)), key=lambda spec: spec.context_length)

    def of(self, key: str) -> list[PendingRequest]:
        """Return the requests for this model."""
        return [request for line in self._lines.get(key, {}).values() for request in line]

    def all(self) -> list[PendingRequest]:
        return [request for key in self._lines for request in self.of(key)]

    def describe(self, now: float) -> list[QueuedRequest]:
        """Return every request, the next one first, as if all of them waited for the same slot."""
        return [
            QueuedRequest(each.spec.name, each.caller.client, each.caller.priority, now - each.arrived, position)
            for position, each in enumerate(self._ranked(self.all(), now), 1)
        ]

    def _heads(self, key: str) -> Iterator[PendingRequest]:
        return (next(iter(line)) for line in self._lines.get(key, {}).values())

    def _ranked(self, requests: Iterable[PendingRequest], now: float) -> list[PendingRequest]:
        """Sort by priority, then round by round: the first request of every client before the second of any client."""
        rounds: Counter[tuple[str, int]] = Counter()
        rows: list[tuple[int, int, int, PendingRequest]] = []
        for request in sorted(requests, key=lambda request: request.arrived):
            client, level = request.caller.client, request.level(now)
            rows.append((level, rounds[client, level], self._turns[client], request))
            rounds[client, level] += 1
        rows.sort(key=lambda row: row[:3])
        return [row[3] for row in rows]


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


def _line_key(request: PendingRequest) -> _LineKey:
    return request.caller.client, request.caller.priority, request.spec.context_length


def _decrement(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
