"""The daemon's listening life, from the bind to the last byte.

At SIGTERM or SIGINT new work is refused at once. Running requests may go on for `drain_timeout`, then each ends with
its error record; then the runners are stopped. A second signal skips the wait. A hard deadline ends the process if any
of this hangs.
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

from ollmlx import __version__
from ollmlx.app import App
from ollmlx.text.addresses import Address, is_loopback
from ollmlx.web.create_app import create_app
from ollmlx.web.logs import logging_to
from ollmlx.web.server.connections import HTTPServer
from ollmlx.web.server.drain import Drain
from ollmlx.web.server.limits import ConnectionLimits
from ollmlx.web.server.sockets import (
    bind_error,
    bound_address,
    is_listening,
    listening_socket,
    served_address,
)
from ollmlx.web.state import state_of

logger = logging.getLogger(__name__)

FLUSH_TIME = 2.0
"""Seconds for the last records to reach the clients."""

HARD_DEADLINE = 10.0
"""Seconds that everything after the drain may take; then the process ends, whatever hangs."""

UNCLEAN_EXIT = 70
GC_THRESHOLD = 5000


async def run(app: App, reload: Callable[[], object] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends at once. SIGHUP calls `reload`. Returns the exit status.

    Raises Conflict when another program uses the address (NET001) or another daemon the state folder, and ConfigError
    when the address cannot be bound for another reason.
    """
    requested = served_address(app.settings.server.host)
    with contextlib.closing(_bound(requested)) as sock, logging_to(sys.stderr, app.settings):
        await app.start()
        try:
            return await _serve(app, sock, bound_address(sock, requested), reload)
        finally:
            await app.close()


async def _serve(app: App, sock: socket.socket, address: Address, reload: Callable[[], object] | None) -> int:
    web = create_app(app)
    for name, work in state_of(web).chores:
        app.keep(name, work)
    limits = ConnectionLimits.of_this_process()
    logger.debug("at most %d connections", limits.most)
    server = HTTPServer(web, sock, app.settings.server.write_timeout, limits)
    with _signals(reload) as (first, second), _gc_tuned():
        await server.start()
        try:
            _announce(address, app)
            await first.wait()
            with _deadline(app.settings.server.drain_timeout + FLUSH_TIME + HARD_DEADLINE):
                return await _end(app, state_of(web).drain, server, second)
        finally:
            await server.stop(0)


async def _end(app: App, drain: Drain, server: HTTPServer, second: asyncio.Event) -> int:
    """Refuse new work, wait for running requests, cancel the rest, stop the runners."""
    timeout = app.settings.server.drain_timeout
    notify("STOPPING=1")
    drain.begin(timeout)
    if drain.running:
        logger.info("%s", drain.status())
    closing = asyncio.create_task(app.close(), name="close")  # requests that wait for a runner are refused now
    await _first_of(drain.idle(timeout), second.wait())
    drain.end()
    clean = await drain.idle(FLUSH_TIME)
    await closing
    await server.stop(FLUSH_TIME)
    logger.info("stopped")
    return 0 if clean else UNCLEAN_EXIT


def _bound(requested: Address) -> socket.socket:
    try:
        if is_listening(requested):  # macOS would bind beside another program's wildcard address, and take its clients
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return listening_socket(requested)
    except OSError as error:
        raise bind_error(requested, error) from error


def _announce(address: Address, app: App) -> None:
    security = app.settings.security
    if not is_loopback(address.host) and not security.has_keys:
        outcome = "served without a key" if security.allow_no_auth else "refused: no API key is configured (SEC001)"
        logger.warning("listening beyond this machine; requests from other machines are %s", outcome)
    sys.stderr.write(f"ollmlx {__version__} listens on http://{address.netloc}\n")
    sys.stderr.flush()
    notify("READY=1")


def notify(state: str) -> None:
    """Send a state (`READY=1`, `STOPPING=1`) to systemd, or to another program that set NOTIFY_SOCKET."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


@contextlib.contextmanager
def _signals(reload: Callable[[], object] | None) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Yield the events of the first and the second signal to stop. The handlers only set events."""
    loop, first, second = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (second if first.is_set() else first).set()

    actions: dict[signal.Signals, Callable[[], object]] = {signal.SIGTERM: stop, signal.SIGINT: stop}
    actions[signal.SIGHUP] = reload or (lambda: logger.info("SIGHUP: there are no settings to reload"))
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield first, second
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _gc_tuned() -> Iterator[None]:
    """Collect garbage less often, and exempt the objects of the start from it.

    With Python's own threshold, collections take a seventh of the time of a short request. A much higher one would keep
    the bodies of many failed requests in memory. A full collection of the objects of the start blocks the event loop
    for 30 ms.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _first_of(*events: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """End the process unless the block ends in time. A thread does it, because the event loop itself may hang."""

    def overdue() -> None:
        logger.critical("stopping took longer than %.0f s; ending now", seconds)
        os._exit(UNCLEAN_EXIT)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), overdue)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
