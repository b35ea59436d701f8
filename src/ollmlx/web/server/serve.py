"""Listening, from the first bind to the last byte: how the daemon starts, and how it ends.

At SIGTERM or SIGINT: new work is refused at once, running answers may finish for `drain_timeout`, then each ends with
its error record; then the runners stop. A second signal skips the waiting. A hard deadline ends the process whatever
hangs: hypercorn's own `graceful_timeout` does not hold on Python 3.12.1 and later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from ollmlx import __version__
from ollmlx.text.addresses import Address
from ollmlx.web import logs
from ollmlx.web.create_app import create_app
from ollmlx.web.server.connections import HTTPServer
from ollmlx.web.server.drain import Drain
from ollmlx.web.server.notify import notify
from ollmlx.web.server.port_in_use import answered, bind_error
from ollmlx.web.server.sockets import bound_address, is_loopback, listening_socket, served_address
from ollmlx.web.state import state_of

if TYPE_CHECKING:
    from ollmlx.app import App

logger = logging.getLogger(__name__)

FAREWELL = 2.0
"""Seconds for the last records to reach the clients."""

HARD_DEADLINE = 10.0
"""Seconds that everything after the drain may take; then the process ends, whatever hangs."""

UNCLEAN = 70


async def run(app: App, reload: Callable[[], object] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends at once. SIGHUP calls `reload`. The exit status.

    Raises Conflict when another program has the address (NET001) or another daemon the state folder, ConfigError when
    the address cannot be had at all.
    """
    asked = served_address(app.settings.server.host)
    with contextlib.closing(_bound(asked)) as sock, _logging(app):
        await app.start()
        try:
            return await _serve(app, sock, bound_address(sock, asked), reload)
        finally:
            await app.close()


async def _serve(app: App, sock: socket.socket, address: Address, reload: Callable[[], object] | None) -> int:
    web = create_app(app)
    server = HTTPServer(web, [sock], write_timeout=app.settings.server.write_timeout)
    with _signals(reload) as stops, _frozen():
        await server.start()
        try:
            _announce(address, app)
            await stops.first.wait()
            with _deadline(_finite(app.settings.server.drain_timeout) + FAREWELL + HARD_DEADLINE):
                return await _end(app, state_of(web).drain, server, stops)
        finally:
            await server.stop(0)


async def _end(app: App, drain: Drain, server: HTTPServer, stops: _Stops) -> int:
    """Refuse new work, wait for what runs, interrupt the rest, stop the runners."""
    patience = app.settings.server.drain_timeout
    notify("STOPPING=1")
    drain.begin(patience)
    if drain.running:
        logger.info("%s", drain.story())
    closing = asyncio.create_task(app.close(), name="close")  # who still waits for a runner is refused now
    await _first_of(drain.idle(_finite(patience)), stops.second.wait())
    drain.end()
    clean = await drain.idle(FAREWELL)
    await closing
    await server.stop(FAREWELL)
    logger.info("stopped")
    return 0 if clean else UNCLEAN


def _bound(asked: Address) -> socket.socket:
    try:
        if answered(asked):  # macOS lets one bind an address beside somebody's wildcard, and then steals its callers
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return listening_socket(asked)
    except OSError as error:
        raise bind_error(asked, error) from error


def _announce(address: Address, app: App) -> None:
    security = app.settings.security
    if not is_loopback(address.host) and not security.api_keys:
        told = "answered without a key" if security.allow_no_auth else "refused: no API key is configured (SEC001)"
        logger.warning("listening beyond this machine; calls from other machines are %s", told)
    sys.stderr.write(f"ollmlx {__version__} listens on http://{address.netloc}\n")
    sys.stderr.flush()
    notify("READY=1")


@contextlib.contextmanager
def _logging(app: App) -> Iterator[None]:
    handlers = logs.configure(app.settings, sys.stderr)
    try:
        yield
    finally:
        logs.release(handlers)


class _Stops:
    """The signals that came: the first one drains, the second one hurries. Handlers only note; the loop acts."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __call__(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def _signals(reload: Callable[[], object] | None) -> Iterator[_Stops]:
    loop, stops = asyncio.get_running_loop(), _Stops()
    actions: dict[signal.Signals, Callable[[], object]] = {signal.SIGTERM: stops, signal.SIGINT: stops}
    actions[signal.SIGHUP] = reload or (lambda: logger.info("SIGHUP: there is nothing to read again"))
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield stops
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """What starting made stays: a collection that looks at all of it takes 30 ms, in which nothing is relayed."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _first_of(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End the process unless the block ends in time; from a thread, for the loop itself may hang."""

    def overdue() -> None:
        logger.critical("stopping took longer than %.0f s; ending now", seconds)
        os._exit(UNCLEAN)

    timer = threading.Timer(seconds, overdue)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _finite(seconds: float) -> float:
    """For ever, or nearly, as a number that timers take."""
    return min(seconds, threading.TIMEOUT_MAX / 2)
