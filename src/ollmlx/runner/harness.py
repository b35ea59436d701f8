"""The life of a runner: serve at once, load beside it, close in bounded time, end with the exit code that says why."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from ollmlx.errors import Busy, RunnerUnavailable
from ollmlx.plugin.contracts import Engine
from ollmlx.protocol import ExitCode, Progress, RunnerConfig
from ollmlx.runner import server
from ollmlx.runner.pump import Pump
from ollmlx.runner.startup import CannotStart, import_engine, load_failure

CLOSE_SECONDS = 30.0
"""Closing takes at most this long, then the process ends anyway. The daemon kills earlier."""

log = logging.getLogger("ollmlx.runner")


class Harness:
    """Owns the engine. All methods run on the event loop of the main thread."""

    def __init__(self, config: RunnerConfig, engine_spec: str) -> None:
        self.config = config
        self._spec = engine_spec
        self._engine: Engine | None = None
        self._state: str = "loading"
        self._pumps: set[Pump] = set()
        self._stop = asyncio.Event()

    def status(self) -> Progress:
        """What the engine says of itself, with the runner's own state. Never waits."""
        if self._engine is None:
            return Progress(engine=self._spec, state="loading", context_length=self.config.context_length)
        return self._engine.status().model_copy(update={"state": self._state})

    def ready_engine(self) -> Engine:
        """The loaded engine. Raises Busy while loading (the daemon asks for the status first), RunnerUnavailable while
        closing."""
        if self._state == "closing":
            raise RunnerUnavailable("the runner is closing")
        if self._engine is None or self._state != "ready":
            raise Busy(f"the runner is {self._state}")
        return self._engine

    @contextmanager
    def streaming(self, pump: Pump) -> Iterator[None]:
        """Remember a stream while it runs, so that closing can end it with an error event."""
        self._pumps.add(pump)
        try:
            yield
        finally:
            self._pumps.discard(pump)

    def stop(self) -> None:
        """Begin to close: refuse new work, end what runs. Called for /v1/shutdown and SIGTERM; twice is once."""
        if self._state == "closing":
            return
        self._state = "closing"
        for pump in list(self._pumps):
            pump.abort("the runner is closing")
        self._stop.set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until told to stop. Raises CannotStart when the model cannot be loaded."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop)
        app = web.AppRunner(
            server.build(self, self.config.token),
            handle_signals=False,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=3600.0,
            shutdown_timeout=1.0,
        )
        await app.setup()
        await web.SockSite(app, listener).start()
        loading = asyncio.create_task(self._load())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            await stopping
        _end_after(CLOSE_SECONDS)
        await app.cleanup()
        if loading.done() and self._engine is not None:
            await self._engine.close()

    async def _load(self) -> None:
        log.info("loading %s with %s", self.config.model.name, self._spec)
        try:
            with _no_garbage():
                engine = await asyncio.to_thread(import_engine, self._spec)
                self._engine = engine
                await engine.load(self.config)
        except Exception as error:
            failure = load_failure(error)
            if failure.code == ExitCode.INTERNAL:
                log.exception("loading failed")
            raise failure from error
        if self._state == "loading":
            self._state = "ready"
            log.info("ready")


@contextmanager
def _no_garbage() -> Iterator[None]:
    """What loading makes stays: no collection looks at it, neither while it is made nor later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _end_after(seconds: float) -> None:
    def end() -> None:
        os.write(2, b"closing took too long\n")
        os._exit(ExitCode.INTERNAL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def serve(config: RunnerConfig, engine_spec: str, listener: socket.socket) -> int:
    """Run to the end; returns the exit code. The cause of a failed load is the last line on standard error."""

    async def main() -> None:
        await Harness(config, engine_spec).run(listener)

    try:
        asyncio.run(main())
    except CannotStart as failure:
        os.write(2, f"{failure}\n".encode("utf-8", "replace"))
        return failure.code
    return ExitCode.ASKED
