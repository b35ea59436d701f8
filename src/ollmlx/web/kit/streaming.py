"""Streaming answers: NDJSON and server-sent events.

The first piece is taken before there is a response, so that an early failure keeps its status; a later one is the last
record of the stream, in the family's own shape. Pieces that are there already leave in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import orjson
from quart import Response, current_app

from ollmlx.web.context import current
from ollmlx.web.kit.errors import Failure, failure
from ollmlx.web.server.drain import Drain

CHUNK = 16 * 1024  # bytes gathered at most before they are written
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

Record = Callable[[Failure], bytes]
"""Makes the last record of a stream that failed."""


async def ndjson(records: AsyncGenerator[bytes, None], failed: Record | None = None) -> Response:
    """An answer of JSON lines, each record with its newline. Raises what happens before the first record."""
    site, exchange = current_app.extensions["ollmlx"], current()
    shape = site.shapes.of(exchange.path)
    return await _respond(records, failed or (lambda found: orjson.dumps(shape(found)) + b"\n"), NDJSON)


async def sse(records: AsyncGenerator[bytes, None], failed: Record) -> Response:
    """An answer of server-sent events, each record with its blank line. Raises what happens before the first record."""
    response = await _respond(records, failed, SSE)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # a proxy in between must not collect events
    return response


async def _respond(records: AsyncGenerator[bytes, None], failed: Record, mimetype: str) -> Response:
    exchange = current()
    stream = Stream(records, failed, current_app.extensions["ollmlx"].drain)
    exchange.on_close(stream.aclose)
    try:
        await stream.start()
    except BaseException:
        await stream.aclose()
        raise
    response = Response(stream, content_type=mimetype)
    response.timeout = None  # the framework's own limit is 60 s for the whole answer, and silent
    return response


class Stream:
    """The body of a streaming response: an async iterator of chunks over a generator of records."""

    def __init__(self, records: AsyncGenerator[bytes, None], failed: Record, drain: Drain) -> None:
        self._records = records
        self._failed = failed
        self._drain = drain
        self._ready: list[bytes] = []
        self._step: Step | None = None
        self._ended = False

    async def start(self) -> None:
        """Have the first record. Raises what happens instead of it."""
        try:
            self._ready.append(await anext(self._records))
        except StopAsyncIteration:
            self._ended = True

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
                if not self._drain.ended:
                    raise
                self._interrupted(ready)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told in the stream
                self._fail(ready, error)
        if not ready:
            raise StopAsyncIteration
        return ready[0] if len(ready) == 1 else b"".join(ready)

    async def aclose(self) -> None:
        """Close the records' generator, a half-taken step first. Called however the exchange ends."""
        self._ended = True
        step, self._step = self._step, None
        if step is not None:
            await step.cancel()
        await self._records.aclose()

    async def _gather(self, ready: list[bytes]) -> None:
        """Add what is there already to `ready`; wait only while it is empty."""
        size = sum(map(len, ready))
        while size < CHUNK:
            step, self._step = self._step or Step(self._records), None
            if not step.poll():
                if ready:
                    self._step = step
                    return
                await step
            size += len(step.value)
            ready.append(step.value)
        await asyncio.sleep(0)  # a generator that never waits must not starve the others

    def _interrupted(self, ready: list[bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        self._fail(ready, self._drain.refusal())

    def _fail(self, ready: list[bytes], error: BaseException) -> None:
        self._ended = True
        ready.append(self._failed(failure(error)))


class Step:
    """One `anext`, driven by hand: it can be tried without waiting, and awaited later by the same task.

    A coroutine that is not ready hands up the future it waits for; that future is kept, and given to the event loop
    only when the step is awaited.
    """

    __slots__ = ("_inner", "_started", "_waits", "value")

    def __init__(self, records: AsyncGenerator[bytes, None]) -> None:
        self._inner: Any = records.__anext__()
        self._waits: Any = None
        self._started = False
        self.value = b""

    def poll(self) -> bool:
        """Whether the value is there. Raises what the generator raises, StopAsyncIteration at its end."""
        if self._started:
            return False
        self._started = True
        try:
            self._waits = self._inner.send(None)
        except StopIteration as stop:
            self.value = stop.value
            return True
        return False

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            while True:
                try:
                    sent = yield self._waits
                except BaseException as error:  # noqa: BLE001 - handed to the generator, cancellation included
                    self._waits = self._inner.throw(error)
                else:
                    self._waits = self._inner.send(sent)
        except StopIteration as stop:
            self.value = stop.value

    async def cancel(self) -> None:
        """End a step that was tried and not awaited, as cancelling a task would."""
        cancel = getattr(self._waits, "cancel", None)
        try:
            if cancel is None:
                self._waits = self._inner.throw(asyncio.CancelledError())
            else:
                cancel()
            await self
        except (asyncio.CancelledError, StopAsyncIteration, StopIteration):
            return
        except Exception as error:  # noqa: BLE001 - the client is gone: there is nobody to tell but the log
            failure(error)
