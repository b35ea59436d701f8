"""Streaming responses: NDJSON and server-sent events.

The first record is made before the response begins, so that an early failure keeps its HTTP status; but no longer than
`[server] first_byte`. From then on a record that says nothing is sent every few seconds in which there is no other. A
later failure becomes the last record of the stream, in the shape of the route family. Records that are ready leave in
one write.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from quart import Response, current_app

from ollmlx.model.events import closing
from ollmlx.types import Admitted, Done, EmbedResult, Event, Listened, Prefill, RerankResult
from ollmlx.web.context import current
from ollmlx.web.kit.errors import Failure, failure
from ollmlx.web.server.drain import Drain

CHUNK = 16 * 1024
"""Bytes after which the records that are ready are written."""
HEARTBEAT = 5.0
"""Seconds without a record after which a stream says that it lives; less when `[server] first_byte` is less."""
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

Figures = TypeVar("Figures", EmbedResult, RerankResult)
Record = Callable[[Failure], bytes]
"""Makes the last record of a stream that failed."""
Alive = Callable[[], bytes]
"""Makes the record of a stream that has nothing to say yet."""


async def ndjson(
    records: AsyncGenerator[bytes, None], failed: Record | None = None, alive: Alive | None = None
) -> Response:
    """Return a response of JSON lines. Each record brings its newline. Raises what is raised before the first one.

    Without `alive` the response begins with the first record, however long that takes.
    """
    state, context = current_app.extensions["ollmlx"], current()
    plain = failed or (lambda found: orjson.dumps(state.shape_of(context.path)(found)) + b"\n")
    stream = Stream(records, plain, state.drain, alive, state.app.settings.server.first_byte)
    context.closers.append(stream.aclose)
    await stream.start()
    return Response(stream, content_type=NDJSON)


def comment() -> bytes:
    """Return a comment for server-sent events, with the progress of the prompt: clients ignore it."""
    prefill = current().prefill
    told = "waiting" if prefill is None else f"prompt: {prefill.done} of {prefill.total} tokens"
    return f": {told}\n\n".encode()


async def sse(records: AsyncGenerator[bytes, None], failed: Record, alive: Alive = comment) -> Response:
    """Return a response of server-sent events. Each record brings its blank line. Raises as `ndjson` does."""
    response = await ndjson(records, failed, alive)
    response.content_type = SSE
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # a proxy in between must not collect events
    return response


async def tracked(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """Yield the events of a generation, and note their figures in the request's context."""
    context = current()
    async with closing(events):
        async for event in events:
            if isinstance(event, (Admitted, Prefill, Done)):
                context.note(event)
            elif not isinstance(event, Listened):
                context.pieces += 1
                if not context.first_ns:
                    context.first_ns = time.monotonic_ns() - context.started_ns
            yield event


async def embedded(work: Awaitable[Figures]) -> Figures:
    """Return vectors or scores, and note their figures in the request's context."""
    result = await work
    current().note(result)
    return result


@dataclass(eq=False)
class Stream:
    """The body of a streaming response: yields chunks of the records that a generator makes."""

    records: AsyncGenerator[bytes, None]
    failed: Record
    drain: Drain
    alive: Alive | None = None
    first_byte: float = math.inf
    """Seconds for which the status is held."""
    _ready: list[bytes] = field(default_factory=list)
    _step: Step | None = None
    _ended: bool = False

    async def start(self) -> None:
        """Wait for the first record, at most `first_byte` seconds. Raises what the generator raises instead."""
        step = Step(self.records)
        try:
            if step.poll() or await step.wait(self.first_byte if self.alive else math.inf):
                self._ready.append(step.value)
                return
        except StopAsyncIteration:
            self._ended = True
            return
        self._step = step
        self._say_alive(self._ready)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        ready, self._ready = self._ready, []
        if not self._ended:
            try:
                await self._gather(ready)
            except StopAsyncIteration:
                self._ended = True
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self.drain.ended or task is None:
                    raise
                task.uncancel()
                self._fail(ready, self.drain.refusal())
            except Exception as error:  # noqa: BLE001 - every failure becomes the last record of the stream
                self._fail(ready, error)
        if not ready:
            raise StopAsyncIteration
        return ready[0] if len(ready) == 1 else b"".join(ready)

    async def aclose(self) -> None:
        """Cancel the step that has begun, then close the generator. Called when the request ends."""
        self._ended = True
        step, self._step = self._step, None
        if step is not None:
            await step.cancel()
        await self.records.aclose()

    async def _gather(self, ready: list[bytes]) -> None:
        """Add the records that can be had without waiting to `ready`; wait for one if it is empty."""
        size = sum(map(len, ready))
        while size < CHUNK:
            step, self._step = self._step or Step(self.records), None
            if not step.poll():
                if ready:
                    self._step = step
                    return
                if not await step.wait(min(HEARTBEAT, self.first_byte) if self.alive else math.inf):
                    self._step = step
                    self._say_alive(ready)
                    return
            size += len(step.value)
            ready.append(step.value)
        await asyncio.sleep(0)  # lets other tasks run when the generator never waits

    def _say_alive(self, ready: list[bytes]) -> None:
        assert self.alive is not None
        ready.append(self.alive())

    def _fail(self, ready: list[bytes], error: BaseException) -> None:
        self._ended = True
        ready.append(self.failed(failure(error)))


class Step:
    """One `anext` of a generator that can be tried without waiting, and awaited later by the same task.

    A coroutine that is not ready yields the future that it waits for. The step keeps that future, and waits for it
    only when `wait` is called, with a limit that cancels nothing.
    """

    __slots__ = ("_inner", "_started", "_waits_for", "value")

    def __init__(self, records: AsyncGenerator[bytes, None]) -> None:
        self._inner: Any = records.__anext__()
        self._waits_for: Any = None
        self._started = False
        self.value = b""

    def poll(self) -> bool:
        """Return True when the value is ready. Raises what the generator raises, StopAsyncIteration at its end."""
        if self._started:
            return False
        self._started = True
        try:
            self._waits_for = self._inner.send(None)
        except StopIteration as stop:
            self.value = stop.value
            return True
        return False

    async def wait(self, seconds: float) -> bool:
        """Return True when the value is ready, False when these seconds have passed. Raises as `poll` does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            while True:
                try:
                    if self._waits_for is None:  # it only lets other tasks run
                        await asyncio.sleep(0)
                    elif not await self._done(end - loop.time()):
                        return False
                except asyncio.CancelledError as error:
                    self._waits_for = self._inner.throw(error)
                else:
                    self._waits_for = self._inner.send(None)
        except StopIteration as stop:
            self.value = stop.value
            return True

    async def _done(self, seconds: float) -> bool:
        """Wait for the future that the generator waits for. It is cancelled with the task that waits for it here."""
        future = self._waits_for
        future._asyncio_future_blocking = False  # as a task does with a future that its coroutine yields
        try:
            done, _ = await asyncio.wait((future,), timeout=seconds if math.isfinite(seconds) else None)
        except asyncio.CancelledError:
            future.cancel()
            raise
        return bool(done)

    async def cancel(self) -> None:
        """Cancel a step that was tried and not awaited, as a task is cancelled."""
        cancel = getattr(self._waits_for, "cancel", None)
        try:
            if cancel is None:
                self._waits_for = self._inner.throw(asyncio.CancelledError())
            else:
                cancel()
            await self.wait(math.inf)
        except (asyncio.CancelledError, StopAsyncIteration, StopIteration):
            return
        except Exception as error:  # noqa: BLE001 - the client is gone: `failure` logs the error
            failure(error)
