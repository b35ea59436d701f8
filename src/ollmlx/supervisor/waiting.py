"""The waiting room: who waits for a runner, and who is next. Pure but for the futures it hands out."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ollmlx.errors import OllmlxError
from ollmlx.supervisor.launch import Launch
from ollmlx.types import Caller

LEVELS = {"high": 0, "normal": 1, "low": 2}
AGEING = 30.0
"""After each such time in the queue, a request counts as one priority higher: low is late, never starved."""
Seat = TypeVar("Seat")


@dataclass(eq=False, slots=True)
class Ticket(Generic[Seat]):
    """One waiting request. `arrived` is monotonic; `position` was its place in the queue when it came (1 is next)."""

    launch: Launch
    caller: Caller
    arrived: float
    position: int
    future: asyncio.Future[Seat] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def level(self, now: float) -> int:
        """Its priority at this time, 0 highest."""
        return max(0, LEVELS[self.caller.priority] - int((now - self.arrived) // AGEING))

    def fail(self, error: OllmlxError) -> None:
        """End the wait with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class WaitingRoom(Generic[Seat]):
    """A round-robin share for each client within each priority; first come, first served within one client."""

    def __init__(self) -> None:
        self._clients: dict[str, deque[Ticket[Seat]]] = {}
        self._keys: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting_for(self, key: str) -> int:
        """Requests that wait for this model."""
        return self._keys[key]

    def add(self, ticket: Ticket[Seat]) -> None:
        self._clients.setdefault(ticket.caller.client, deque()).append(ticket)
        self._keys[ticket.launch.key] += 1
        self._count += 1

    def remove(self, ticket: Ticket[Seat], *, served: bool = False) -> None:
        """It waits no longer. A client that was served goes to the end of the round."""
        client = ticket.caller.client
        tickets = self._clients.get(client)
        if tickets is None or ticket not in tickets:
            return
        tickets.remove(ticket)
        self._count -= 1
        self._keys[ticket.launch.key] -= 1
        if not self._keys[ticket.launch.key]:
            del self._keys[ticket.launch.key]
        if served or not tickets:
            del self._clients[client]
            if tickets:
                self._clients[client] = tickets

    def order(self, now: float) -> list[Ticket[Seat]]:
        """Everyone, next one first."""
        rows: list[tuple[int, int, int, Ticket[Seat]]] = []
        for place, tickets in enumerate(self._clients.values()):
            rounds = [0, 0, 0]
            for ticket in tickets:
                level = ticket.level(now)
                rows.append((level, rounds[level], place, ticket))
                rounds[level] += 1
        rows.sort(key=lambda row: row[:3])
        return [row[3] for row in rows]

    def of(self, key: str) -> Iterator[Ticket[Seat]]:
        """Everyone who waits for this model."""
        return (
            ticket for tickets in list(self._clients.values()) for ticket in list(tickets) if ticket.launch.key == key
        )

    def everyone(self) -> list[Ticket[Seat]]:
        return [ticket for tickets in self._clients.values() for ticket in tickets]
