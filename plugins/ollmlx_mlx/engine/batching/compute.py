"""The compute thread: the only thread that uses the model. It runs rounds of the scheduler, and calls between them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from ollmlx.errors import RunnerFailed
from ollmlx_mlx.engine.batching.scheduler import BatchScheduler, EngineBroken

T = TypeVar("T")
_log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 1.0
"""Time without work after which memory that nothing uses is given back."""


class ComputeThread:
    """Runs calls in order of arrival, and rounds of the scheduler while there is work.

    MLX's streams belong to threads, so everything that makes or reads arrays happens here. `tidy` is called once after
    work, when none has come for `idle` seconds.
    """

    def __init__(self, tidy: Callable[[], None] = lambda: None, idle: float = IDLE_SECONDS) -> None:
        self._tidy = tidy
        self._idle = idle
        self._untidy = False
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._sliced: deque[Callable[[], bool]] = deque()
        self._closing = False
        self.parts = 0
        """Parts of sliced calls that are done: progress that the scheduler does not count. Read from other threads."""
        self.scheduler: BatchScheduler | None = None
        self.broken: str | None = None
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` between two rounds. The future gets its result or its exception."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def call_sliced(self, work: Generator[None, None, T]) -> Future[T]:
        """As `call`, for long work that yields between its parts. Rounds of the scheduler run in between."""
        future: Future[T] = Future()

        def part() -> bool:
            if future.cancelled():
                work.close()
                return False
            try:
                next(work)
            except StopIteration as stop:
                future.set_running_or_notify_cancel()
                future.set_result(stop.value)
                return False
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                future.set_running_or_notify_cancel()
                future.set_exception(error)
                return False
            return True

        self._inbox.put(lambda: self._sliced.append(part))
        return future

    def post(self, work: Callable[[], None]) -> None:
        """Run `work` between two rounds without waiting for it."""
        self._inbox.put(work)

    def close(self, timeout: float = 5.0) -> None:
        """End the thread after the present round. Returns when it has ended, or after `timeout` seconds."""

        def stop() -> None:
            self._closing = True

        self._inbox.put(stop)
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing:
            self._drain(wait=not self._busy)
            if self._sliced and not self._closing:
                part = self._sliced.popleft()
                self.parts += 1
                if part():
                    self._sliced.append(part)
            if not self._closing:
                self._round()
        if self.scheduler is not None:
            self.scheduler.fail_all(RunnerFailed("the model is being unloaded"))

    @property
    def _busy(self) -> bool:
        return bool(self._sliced) or (self.broken is None and self.scheduler is not None and self.scheduler.busy)

    def _round(self) -> None:
        scheduler = self.scheduler
        if scheduler is None or not scheduler.busy:
            return
        if self.broken is not None:
            scheduler.fail_all(RunnerFailed(f"the engine has failed: {self.broken}"))
            return
        try:
            scheduler.tick()
        except EngineBroken as error:
            self._break(str(error))
        except Exception as error:  # noqa: BLE001 - every request ends with the error
            # The state of the batch is unknown now: none of its requests can go on.
            _log.exception("the scheduler failed")
            self._break(f"{type(error).__name__}: {error}")

    def _break(self, reason: str) -> None:
        self.broken = reason
        assert self.scheduler is not None
        self.scheduler.fail_all(RunnerFailed(f"the engine has failed: {reason}"))

    def _drain(self, *, wait: bool) -> None:
        try:
            work = self._wait() if wait else self._inbox.get_nowait()
            self._untidy = True
            while True:
                self._guarded(work)
                work = self._inbox.get_nowait()
        except Empty:
            return

    def _wait(self) -> Callable[[], None]:
        """Return the next call. When none comes for a while after some work, tidy up first."""
        if self._untidy:
            try:
                return self._inbox.get(timeout=self._idle)
            except Empty:
                self._untidy = False
                self._guarded(self._tidy)
        return self._inbox.get()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - the thread serves other requests
            _log.exception("a call on the compute thread failed")
