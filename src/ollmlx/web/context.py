"""The context of one HTTP request, from its first line to the last byte of its response."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ollmlx.keys import Quotas
from ollmlx.model.names import ModelName
from ollmlx.types import Admitted, Caller, Done, EmbedResult, Prefill, RerankResult

CURRENT: ContextVar[RequestContext | None] = ContextVar("ollmlx_request_context", default=None)

CLIENT_GONE = 499
"""The status that is logged when the client left before the response was complete."""
REQUEST_ID_HEADER = "x-request-id"

USABLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
"""Request ids of clients that are safe to log."""


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request and its outcome, for logs and metrics. Durations are in nanoseconds."""

    id: str
    method: str
    path: str
    client: str = "local"
    """The client's address, or the name of its API key."""
    quotas: Quotas | None = None
    """The limits of the client's key."""
    traceparent: str = ""
    """The W3C trace context that the client sent."""
    act: str = ""
    """The administrative act that is asked for, such as `delete`; empty for other requests."""
    counted: bool = False
    """The request counts among those of its key."""
    pieces: int = 0
    """Pieces of answers: about their tokens."""
    priority: str = "normal"
    route: str = ""
    model: str = ""
    status: int = 0
    """The HTTP status; 0 until the response begins."""
    error: str = ""
    """Kind of the error that ended the request; empty for a success."""
    code: str = ""
    """Code of the error, if it has one."""
    started_ns: int = field(default_factory=time.monotonic_ns)
    total_ns: int = 0
    admitted: Admitted | None = None
    prefill: Prefill | None = None
    """The latest progress of the prompt."""
    missed: tuple[str, str] | None = None
    """The place where the prompt differs from a recent one that it should continue, and the words there."""
    done: Done | None = None
    embedded: int | None = None
    """Tokens that were read to compute vectors."""
    first_ns: int = 0
    """Time from the start to the first piece of the answer; 0 before there is one."""
    dropped: int = 0
    """Tokens that were cut from the prompt."""
    upload: bool = False
    """The body may have any size and is read piece by piece."""
    origin: str | None = None
    """The allowed origin of the web page that sent the request."""
    task: asyncio.Task[object] | None = None
    """The task that runs the route; a drain cancels it when its time is over."""
    body_received: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the whole body has been received."""
    body_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while more of the body may be read from the socket."""
    ended: bool = False
    """The request was logged; tasks that still run in its context no longer belong to it."""
    closers: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    """Called when the request ends, for whatever reason."""

    async def close(self) -> None:
        """Call the closers; one of them closes a stream whose client left before its first byte."""
        while self.closers:
            await self.closers.pop()()

    def note(self, event: Admitted | Prefill | Done | EmbedResult | RerankResult) -> None:
        """Keep the figures of an event for logs, metrics and response headers."""
        match event:
            case EmbedResult() | RerankResult():
                self.admitted = Admitted(queue_ns=event.queue_ns, load_ns=event.load_ns)
                self.embedded = event.prompt_tokens
            case Admitted():
                self.admitted = event
            case Prefill():
                self.prefill = event
                self.missed = event.missed or self.missed
                self.dropped = max(self.dropped, event.dropped)
            case Done():
                self.done = event if self.done is None else _combine(self.done, event)
                self.dropped = max(self.dropped, event.dropped)

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and the answer; of an answer that broke off, as far as they are known."""
        if self.done is not None:
            return self.done.prompt_tokens + self.done.generated_tokens
        return (self.embedded or 0) + (self.prefill.total if self.prefill else 0) + self.pieces

    @property
    def cache(self) -> tuple[int, int] | None:
        """The tokens of the prompt that came from the prefix cache, and all of them; None before they are known."""
        if self.done is not None and self.done.prompt_tokens:
            return self.done.cached_tokens, self.done.prompt_tokens
        return None if self.prefill is None else (self.prefill.cached, self.prefill.total)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the response headers that describe the request: its id, its waits, its prompt."""
        headers = [(REQUEST_ID_HEADER.encode(), self.id.encode())]
        if self.admitted is not None:
            headers.append((b"x-ollmlx-queue-ms", _milliseconds(self.admitted.queue_ns)))
            headers.append((b"x-ollmlx-load-ms", _milliseconds(self.admitted.load_ns)))
        if self.cache is not None:
            missed = "" if self.missed is None else "; " + " ".join(self.missed)
            headers.append((b"x-ollmlx-cache", f"{self.cache[0]}/{self.cache[1]}{missed}".encode("ascii", "replace")))
        if self.dropped:
            headers.append((b"x-ollmlx-dropped-tokens", str(self.dropped).encode()))
        return headers


def current() -> RequestContext:
    """Return the context of the request that the running task serves. Raises LookupError outside of a request."""
    context = CURRENT.get()
    if context is None:
        raise LookupError("no HTTP request is being served here")
    return context


def caller(model: str = "") -> Caller:
    """Return the client of the current request as the service describes it, and count the request for its key.

    `model` is noted for the log. Raises Forbidden when the key may not use it, LimitReached at one of its limits.
    """
    context = current()
    permit(model)
    priority: Any = context.priority if context.priority in ("high", "low") else "normal"
    if context.quotas is not None:
        if not context.counted:
            context.quotas.begin(context.client)
            context.counted = True
        priority = context.quotas.priority(context.client, priority)
    return Caller(request_id=context.id, client=context.client, priority=priority)


def permit(model: str, act: str = "") -> None:
    """Note the model of the current request for the log. Raises Forbidden when the client's key may not use it.

    act: what is done to the model. It gets a line in the log of its own, whatever its outcome is.
    """
    context = current()
    context.model, context.act = model or context.model, act or context.act
    if model and context.quotas is not None:
        context.quotas.check_model(context.client, ModelName.parse(model))


def permits(model: ModelName) -> bool:
    """Return True if the key of the current request may use a model."""
    context = current()
    return context.quotas is None or context.quotas.permits(context.client, model)


def _combine(one: Done, other: Done) -> Done:
    """Combine two choices of one request, which were generated side by side: counts are added, times are not."""
    counts = ("prompt_tokens", "cached_tokens", "generated_tokens")
    times = ("prefill_ns", "decode_ns", "total_ns")
    return other.model_copy(
        update={name: getattr(one, name) + getattr(other, name) for name in counts}
        | {name: max(getattr(one, name), getattr(other, name)) for name in times}
    )


def _milliseconds(nanoseconds: int) -> bytes:
    return f"{nanoseconds / 1e6:.1f}".encode()
