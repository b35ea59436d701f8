"""Moves one request's events from the engine to the socket: each at once, those ready together in one write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from ollmlx.errors import OllmlxError, RunnerFailed, RunnerUnavailable
from ollmlx.protocol import encode_event
from ollmlx.runner.problems import failed_of
from ollmlx.types import Event

ROOM_BYTES = 64 * 1024
"""The engine is held back while this much waits for a slow reader."""

TERMINAL = frozenset({"done", "error"})

log = logging.getLogger("ollmlx.runner")


class Pump:
    """Runs an engine's iterator in a task of its own, so that events pile up only while a write is under way.

    The engine is closed in every case: at the end, when it fails, when the reader leaves, when the runner closes.
    """

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self.failure: Exception | None = None
        """Why there is no event at all; a failure after the first event is itself an event."""
        self._events = events
        self._lines: list[bytes] = []
        self._size = 0
        self._begun = False
        self._over = False
        self._closing: str | None = None
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._end)

    async def take(self) -> bytes:
        """Whole lines: all that is ready, after waiting for at least one. Empty at the end."""
        while not self._lines and not self._over:
            self._ready.clear()
            await self._ready.wait()
        data = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        self._room.set()
        return data

    def abort(self, reason: str) -> None:
        """End the stream with an error event, because the runner closes."""
        self._closing = reason
        self._task.cancel()

    async def close(self) -> None:
        """Cancel the engine's iterator, if it still runs, and wait until it has let go."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            await self._drain()
        except Exception as error:  # noqa: BLE001 - whatever an engine raises ends its own request only
            self._fail(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        # A callback, not a `finally`: a task that is cancelled before its first step never enters its body.
        if task.cancelled() and self._closing is not None:
            self._fail(RunnerUnavailable(self._closing))
        self._over = True
        self._ready.set()

    async def _drain(self) -> None:
        try:
            async for event in self._events:
                self._put(encode_event(event))
                if event.type in TERMINAL:
                    return
                if self._size >= ROOM_BYTES:
                    self._room.clear()
                    await self._room.wait()
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        raise RunnerFailed("the engine ended its answer without a result")

    def _put(self, line: bytes) -> None:
        self._begun = True
        self._lines.append(line)
        self._size += len(line)
        self._ready.set()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, OllmlxError):
            log.error("the engine failed", exc_info=error)
        if self._begun:
            self._put(encode_event(failed_of(error)))
        else:
            self.failure = error
