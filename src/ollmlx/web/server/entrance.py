"""The entrance: new requests come in a few at a time, and who cannot be served is told from the first line.

The event loop serves in rounds whoever is ready. With a thousand requests ready at once a round would take seconds,
and nobody would hear from the daemon, `/livez` included. So requests take turns, a few in each round; only those that
ask how the daemon is pass. Who needs a runner and finds more others before it than the queue takes is refused before
its request is parsed.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ollmlx.errors import OllmlxError
from ollmlx.supervisor.scheduling.arrivals import Arrival, Arrivals
from ollmlx.web.access_log import QUIET_PATHS
from ollmlx.web.server.refusals import Refusals

if TYPE_CHECKING:
    from ollmlx.web.state import WebState

AT_ONCE = 2
"""Requests that come in in one round of the event loop: a few milliseconds' work."""
PASSING = QUIET_PATHS | {"/"}
"""Who asks for these only wants to know how the daemon is."""
HEAD = re.compile(rb"(GET|HEAD|POST) ([^\s?]{1,2048})(?:\?\S{0,2048})? HTTP/1\.[01]\r\n")
MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
ORIGIN = re.compile(rb"\r\norigin:", re.IGNORECASE)


class House(Protocol):
    """What the entrance asks of the pool."""

    @property
    def arrivals(self) -> Arrivals:
        """The requests that are on their way in."""

    def crowded(self, model: str) -> OllmlxError | None:
        """What to tell one request more for a model, unread; None while there is room beside those on their way in."""


class Entrance:
    """One for all connections of a daemon."""

    def __init__(self, site: WebState, house: House) -> None:
        self._site = site
        self._house = house
        self._refusals = Refusals(site)
        self._line: deque[tuple[Callable[[], None], Arrival]] = deque()

    def connection(self) -> Arrival:
        """What a new connection brings along when a request comes over it."""
        return self._house.arrivals.connection()

    def come(self, first: bytes, client: str, arrival: Arrival, enter: Callable[[], None]) -> bytes | None:
        """A request's first bytes have come. `enter` is called in its turn, or at once when it may pass; the answer is
        returned when it is refused."""
        head = HEAD.match(first)
        method, path = (head[1], head[2].decode("latin-1")) if head else (b"", "")
        if path in PASSING and method != b"POST":
            enter()
            return None
        works = method == b"POST" and path in self._site.work
        model = _model(first) if works else ""
        # A page of a browser could not read a refusal without the headers that its origin is answered with.
        if works and not ORIGIN.search(first) and (error := self._house.crowded(model)) is not None:
            return self._refusals.answer(error, first, path, client)
        if works:
            arrival.wait(model)
        self._wait(enter, arrival)
        return None

    async def turn(self, first: bytes, client: str, arrival: Arrival) -> bytes | None:
        """As `come`, for a request on a connection that was used before: returns in its turn."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer = self.come(first, client, arrival, lambda: _wake(mine))
        if answer is None:
            await mine
        return answer

    def close(self) -> None:
        """The daemon ends: everybody who waits comes in, to be told so."""
        while self._line:
            self._let_in()
        self._refusals.tell()

    def _wait(self, enter: Callable[[], None], arrival: Arrival) -> None:
        self._line.append((enter, arrival))
        if len(self._line) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        for _ in range(min(AT_ONCE, len(self._line))):
            self._let_in()
        if self._line:
            asyncio.get_running_loop().call_soon(self._next)

    def _let_in(self) -> None:
        enter, arrival = self._line.popleft()
        arrival.come()
        enter()


def _model(request: bytes) -> str:
    """The name in a body that has come with its head: in every family's dialect it stands under this key."""
    found = MODEL.search(request.partition(b"\r\n\r\n")[2])
    return found[1].decode("utf-8", "replace") if found else ""


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # its connection may be gone
        waiting.set_result(None)
