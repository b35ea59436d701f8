"""The waiting room: who waits for a runner, and who is next. Pure but for the futures it hands out."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ollmlx.errors import OllmlxError
from ollmlx.launch.spec import LaunchSpec
from ollmlx.types import Caller

LEVELS = {"high": 0, "normal": 1, "low": 2}
AGEING = 30.0
"""After each such time in the queue, a request counts as one priority higher: low is late, never starved."""
Seat = TypeVar("Seat")
_Line = tuple[str, str, int]


@dataclass(eq=False, slots=True)
class PendingRequest(Generic[Seat]):
    """One waiting request. `arrived` is monotonic."""

    launch: LaunchSpec
    caller: Caller
    arrived: float
    future: asyncio.Future[Seat] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def level(self, now: float) -> int:
        """Its priority at this time, 0 highest."""
        return max(0, LEVELS[self.caller.priority] - int((now - self.arrived) // AGEING))

    def fail(self, error: OllmlxError) -> None:
        """End the wait with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class PendingRequests(Generic[Seat]):
    """A round-robin share for each client within each priority; first come, first served within one client.

    Those who ask for one model, as one client, with one priority and one context length, stand in a line of their own:
    its first is its oldest and has aged most. So who comes, goes or is next costs nothing that grows with a line.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[_Line, dict[PendingRequest[Seat], None]]] = {}
        """By model, then by what else they have in common; a line is in order of arrival."""
        self._turns: dict[str, int] = {}
        """Of every client who waits; the lowest number is next."""
        self._numbers = itertools.count()
        self._by_key: Counter[str] = Counter()
        self._by_client: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting_for(self, key: str) -> int:
        """Requests that wait for this model."""
        return self._by_key[key]

    def add(self, ticket: PendingRequest[Seat]) -> None:
        key, client = ticket.launch.key, ticket.caller.client
        self._lines.setdefault(key, {}).setdefault(_line(ticket), {})[ticket] = None
        if client not in self._turns:
            self._turns[client] = next(self._numbers)
        self._count += 1
        self._by_key[key] += 1
        self._by_client[client] += 1

    def remove(self, ticket: PendingRequest[Seat], *, served: bool = False) -> None:
        """It waits no longer. A client that was served goes to the end of the round."""
        key, client = ticket.launch.key, ticket.caller.client
        lines = self._lines.get(key, {})
        line = lines.get(_line(ticket), {})
        if ticket not in line:
            return
        del line[ticket]
        if not line:
            del lines[_line(ticket)]
        if not lines:
            del self._lines[key]
        self._count -= 1
        _less(self._by_key, key)
        _less(self._by_client, client)
        if client not in self._by_client:
            del self._turns[client]
        elif served:
            self._turns[client] = next(self._numbers)

    def next(
        self, key: str, now: float, fits: Callable[[LaunchSpec], bool] = lambda launch: True
    ) -> PendingRequest[Seat] | None:
        """Who is to get a free slot of this model: the first of those whose launch fits, by its context length."""
        fitting = (head for head in self._heads(key) if fits(head.launch))
        return min(fitting, key=lambda head: self._claim(head, now), default=None)

    def keys(self, now: float) -> list[str]:
        """The models that are waited for, the one of the next request first."""
        if len(self._lines) < 2:
            return list(self._lines)
        heads = (head for key in self._lines for head in self._heads(key))
        return list(dict.fromkeys(ticket.launch.key for ticket in self._ranked(heads, now)))

    def level(self, key: str, now: float) -> int:
        """The best priority that waits for this model, 0 highest; `len(LEVELS)` when nobody does."""
        return min((head.level(now) for head in self._heads(key)), default=len(LEVELS))

    def since(self, key: str) -> float:
        """When the first of those who wait for this model came."""
        return min(head.arrived for head in self._heads(key))

    def longest(self, key: str) -> LaunchSpec:
        """The launch that serves everybody who waits for this model: the one with the longest context."""
        return max((head.launch for head in self._heads(key)), key=lambda launch: launch.context_length)

    def of(self, key: str) -> list[PendingRequest[Seat]]:
        """Everyone who waits for this model."""
        return [ticket for line in self._lines.get(key, {}).values() for ticket in line]

    def everyone(self) -> list[PendingRequest[Seat]]:
        return [ticket for key in self._lines for ticket in self.of(key)]

    def order(self, now: float) -> list[PendingRequest[Seat]]:
        """Everyone, next one first, were all to wait for the same slot."""
        return self._ranked(self.everyone(), now)

    def _heads(self, key: str) -> Iterator[PendingRequest[Seat]]:
        return (next(iter(line)) for line in self._lines.get(key, {}).values())

    def _claim(self, ticket: PendingRequest[Seat], now: float) -> tuple[int, int, float]:
        return ticket.level(now), self._turns[ticket.caller.client], ticket.arrived

    def _ranked(self, tickets: Iterable[PendingRequest[Seat]], now: float) -> list[PendingRequest[Seat]]:
        """By priority, then round by round: the first request of every client before the second of anybody."""
        rounds: Counter[tuple[str, int]] = Counter()
        rows: list[tuple[int, int, int, PendingRequest[Seat]]] = []
        for ticket in sorted(tickets, key=lambda ticket: ticket.arrived):
            client, level = ticket.caller.client, ticket.level(now)
            rows.append((level, rounds[client, level], self._turns[client], ticket))
            rounds[client, level] += 1
        rows.sort(key=lambda row: row[:3])
        return [row[3] for row in rows]


def _line(ticket: PendingRequest[Any]) -> _Line:
    return ticket.caller.client, ticket.caller.priority, ticket.launch.context_length


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
