"""One HTTP request from its first line to the last byte of its answer: what logs and metrics tell of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from ollmlx.types import Admitted, Caller, Done, EmbedResult, Prefill

CURRENT: ContextVar[Exchange | None] = ContextVar("ollmlx_exchange", default=None)

CLIENT_GONE = 499
"""Written to the log when the client left before the answer was complete."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and what became of it. Durations are nanoseconds; `status` 0 means not answered yet."""

    id: str
    method: str
    path: str
    client: str = "local"
    priority: str = "normal"
    route: str = ""
    model: str = ""
    status: int = 0
    error: str = ""
    """Kind of the failure that ended it; empty for a success."""
    code: str = ""
    started_ns: int = field(default_factory=time.monotonic_ns)
    total_ns: int = 0
    admitted: Admitted | None = None
    done: Done | None = None
    embedded: int | None = None
    """Tokens that were read to compute vectors."""
    first_ns: int = 0
    """From the start to the first piece of the answer; 0 when there was none."""
    dropped: int = 0
    sent: int = 0
    """Bytes of the body that were sent."""
    upload: bool = False
    """The body may be of any size and is read as it comes."""
    origin: str | None = None
    """The allowed origin of the web page that asks."""
    task: asyncio.Task[object] | None = None
    """The task that answers; cancelled when the daemon's patience ends."""
    received: asyncio.Event = field(default_factory=asyncio.Event)
    """The whole request body is here."""
    room: asyncio.Event = field(default_factory=asyncio.Event)
    """More of the body may be read from the socket."""
    over: bool = False
    """Told to log and observers; what still runs in its context is no part of it any more."""
    _closers: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    def caller(self) -> Caller:
        """Who asks, as the service wants to know it."""
        priority = self.priority if self.priority in ("high", "low") else "normal"
        return Caller(request_id=self.id, client=self.client, priority=priority)

    def on_close(self, closer: Callable[[], Awaitable[object]]) -> None:
        """Have something closed when the exchange ends, however it ends."""
        self._closers.append(closer)

    async def close(self) -> None:
        """Close what was left open (a stream whose client went away before its first byte)."""
        while self._closers:
            await self._closers.pop()()

    def note(self, event: Admitted | Prefill | Done | EmbedResult) -> None:
        """Remember what a generation, or vectors, tell about themselves."""
        match event:
            case EmbedResult():
                self.admitted = Admitted(queue_ns=event.queue_ns, load_ns=event.load_ns)
                self.embedded = event.prompt_tokens
            case Admitted():
                self.admitted = event
            case Prefill():
                self.dropped = max(self.dropped, event.dropped)
            case Done():
                self.done = event if self.done is None else _together(self.done, event)
                self.dropped = max(self.dropped, event.dropped)

    def note_first(self) -> None:
        """The first piece of the answer is there."""
        if not self.first_ns:
            self.first_ns = time.monotonic_ns() - self.started_ns

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The answer's headers that tell how it came about."""
        headers = [(b"x-request-id", self.id.encode())]
        if self.admitted is not None:
            headers.append((b"x-ollmlx-queue-ms", _milliseconds(self.admitted.queue_ns)))
            headers.append((b"x-ollmlx-load-ms", _milliseconds(self.admitted.load_ns)))
        if self.dropped:
            headers.append((b"x-ollmlx-dropped-tokens", str(self.dropped).encode()))
        return headers


def current() -> Exchange:
    """The exchange that the running task answers. Raises LookupError outside of one."""
    exchange = CURRENT.get()
    if exchange is None:
        raise LookupError("no HTTP request is being answered here")
    return exchange


def caller(model: str = "") -> Caller:
    """Who asks; `model` is what they ask for, for the log."""
    exchange = current()
    exchange.model = model or exchange.model
    return exchange.caller()


def _together(one: Done, other: Done) -> Done:
    """Several choices of one request, generated side by side, as one."""
    counts = ("prompt_tokens", "cached_tokens", "generated_tokens")
    times = ("prefill_ns", "decode_ns", "total_ns")
    return other.model_copy(
        update={name: getattr(one, name) + getattr(other, name) for name in counts}
        | {name: max(getattr(one, name), getattr(other, name)) for name in times}
    )


def _milliseconds(nanoseconds: int) -> bytes:
    return f"{nanoseconds / 1e6:.1f}".encode()
