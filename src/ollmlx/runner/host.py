"""The engine in this process: loading it, its state, and the streams of its answers."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from ollmlx import closing
from ollmlx.errors import Busy, ContextExceeded, OllmlxError, RunnerFailed, RunnerUnavailable
from ollmlx.plugin.contracts import Engine
from ollmlx.protocol import ExitCode, Problem, Progress, RunnerConfig, encode_event
from ollmlx.runner.startup import import_engine, load_failure
from ollmlx.types import Event, Failed

BUFFER_BYTES = 64 * 1024
"""The engine waits while this much of an answer has not been sent."""
TERMINAL = frozenset({"done", "error"})

log = logging.getLogger("ollmlx.runner")


def problem_of(error: BaseException) -> Problem:
    """Return an exception as the protocol sends it. A bug has its type and text; its traceback is only logged."""
    if isinstance(error, OllmlxError):
        excess = error.excess if isinstance(error, ContextExceeded) else None
        return Problem(kind=error.kind, message=error.message, code=error.code, excess=excess)
    if isinstance(error, MemoryError):
        return Problem(kind="out_of_memory", message="the runner ran out of memory")
    text, name = str(error), type(error).__name__
    return Problem(kind="internal", message=f"the engine failed: {name}: {text[:300]}" if text else name)


class EventStream:
    """Encodes one request's events as lines. Events that are ready together are taken together.

    The engine's iterator runs in a task of its own. It is closed in every case: at the end, after a failure, when the
    client leaves, when the runner closes. `failure` is the error of a stream that failed before its first event; a
    later failure is an event.
    """

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self.failure: Exception | None = None
        self._events = events
        self._lines: list[bytes] = []
        self._size = 0
        self._begun = False
        self._over = False
        self._abort_reason: str | None = None
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._end)

    async def take(self) -> bytes:
        """Return all lines that are ready, after waiting for at least one; empty at the end."""
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
        self._abort_reason = reason
        self._task.cancel()

    async def close(self) -> None:
        """Cancel the engine's iterator, if it still runs, and wait until it is closed."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with closing(self._events) as events:
                async for event in events:
                    self._put(encode_event(event))
                    if event.type in TERMINAL:
                        return
                    if self._size >= BUFFER_BYTES:
                        self._room.clear()
                        await self._room.wait()
            raise RunnerFailed("the engine ended its answer without a result")
        except Exception as error:  # noqa: BLE001 - any exception of an engine ends its own request only
            self._fail(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        # A callback, not a `finally`: a task that is cancelled before its first step never enters its body.
        if task.cancelled() and self._abort_reason is not None:
            self._fail(RunnerUnavailable(self._abort_reason))
        self._over = True
        self._ready.set()

    def _put(self, line: bytes) -> None:
        self._begun = True
        self._lines.append(line)
        self._size += len(line)
        self._ready.set()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, OllmlxError):
            log.error("the engine failed", exc_info=error)
        if self._begun:
            self._put(encode_event(Failed(**problem_of(error).model_dump())))
        else:
            self.failure = error


class EngineHost:
    """Holds the engine. All methods run on the event loop of the main thread. `stopped` is set when closing begins."""

    def __init__(self, config: RunnerConfig, engine_spec: str, notes: tuple[str, ...] = ()) -> None:
        self.config = config
        self._notes = notes
        self.stopped = asyncio.Event()
        self._spec = engine_spec
        self._engine: Engine | None = None
        self._state = "loading"
        self._streams: set[EventStream] = set()

    def status(self) -> Progress:
        """Return the engine's status with the runner's own state. Never waits."""
        if self._engine is None:
            return Progress(engine=self._spec, state="loading", context_length=self.config.context_length)
        found = self._engine.status()
        return found.model_copy(update={"state": self._state, "notes": (*found.notes, *self._notes)})

    def ready_engine(self) -> Engine:
        """Return the loaded engine. Raises Busy while it loads, RunnerUnavailable while the runner closes."""
        if self._state == "closing":
            raise RunnerUnavailable("the runner is closing")
        if self._engine is None or self._state != "ready":
            raise Busy(f"the runner is {self._state}")
        return self._engine

    @contextmanager
    def streaming(self, stream: EventStream) -> Iterator[None]:
        """Register a stream while it runs, so that closing can end it with an error event."""
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    def stop(self) -> None:
        """Begin to close: refuse new requests and end the running ones. A second call does nothing."""
        if self._state == "closing":
            return
        self._state = "closing"
        for stream in list(self._streams):
            stream.abort("the runner is closing")
        self.stopped.set()

    async def load(self) -> None:
        """Import and load the engine. Raises CannotStart."""
        log.info("loading %s with %s", self.config.model.name, self._spec)
        try:
            with _without_garbage_collection():
                self._engine = await asyncio.to_thread(import_engine, self._spec)
                await self._engine.load(self.config)
        except Exception as error:
            failure = load_failure(error)
            if failure.code == ExitCode.INTERNAL:
                log.exception("loading failed")
            raise failure from error
        if self._state == "loading":
            self._state = "ready"
            log.info("ready")

    async def close(self) -> None:
        """Close the engine, if it was imported."""
        if self._engine is not None:
            await self._engine.close()


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile, and exclude the objects made here from later collections: they are permanent."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
