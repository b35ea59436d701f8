"""Listening: the socket, the signals, and an end in bounded time.

The drain is the daemon's own: hypercorn's `graceful_timeout` does not hold on Python 3.12.1 and later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from hypercorn.asyncio import serve
from hypercorn.config import Config

from ollmlx import __version__
from ollmlx.address import Address
from ollmlx.errors import ConfigError
from ollmlx.web import logs
from ollmlx.web.create_app import create_app
from ollmlx.web.drain import Drain
from ollmlx.web.site import site_of
from ollmlx.web.sockets import bound_address, listening_socket, served_address

if TYPE_CHECKING:
    from ollmlx.app import App

logger = logging.getLogger(__name__)

FAREWELL = 2.0  # seconds for interrupted streams to send their error record
HARD_DEADLINE = 10.0  # seconds after the drain: then the process ends, whatever hangs
UNCLEAN = 70


async def run(app: App, reload: Callable[[], object] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends at once. SIGHUP calls `reload`. The exit status.

    Raises ConfigError when the address cannot be had (NET001), Conflict when another daemon has the state folder.
    """
    sock, address = _listen(app.settings.server.host)
    handlers = logs.configure(app.settings, sys.stderr)
    try:
        with contextlib.closing(sock):
            await app.start()
            try:
                return await _serve(app, sock, address, reload)
            finally:
                await app.close()
    finally:
        logs.release(handlers)


async def _serve(app: App, sock: socket.socket, address: Address, reload: Callable[[], object] | None) -> int:
    web = create_app(app)
    drain = site_of(web).drain
    closing = asyncio.Event()
    server = asyncio.create_task(
        serve(web, _config(sock), shutdown_trigger=closing.wait),  # type: ignore[arg-type]
        name="http",
    )
    async with _signals(reload) as (stop, hurry):
        print(f"ollmlx {__version__} listens on http://{address.netloc}", file=sys.stderr, flush=True)  # noqa: T201
        waits = asyncio.create_task(stop.wait())
        await asyncio.wait({server, waits}, return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        patience = app.settings.server.drain_timeout
        deadline = _last_resort(FAREWELL + HARD_DEADLINE + (0 if math.isinf(patience) else patience))
        clean = await _end(drain, hurry, patience)
        closing.set()
        await asyncio.wait({server}, timeout=FAREWELL)
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server
        await app.close()
        deadline.cancel()
    return 0 if clean else UNCLEAN


async def _end(drain: Drain, hurry: asyncio.Event, patience: float) -> bool:
    """Refuse new work, wait for what runs, interrupt the rest. Whether everything had ended by then."""
    drain.begin()
    if drain.running:
        logger.info("stopping: %d requests may finish within %.0f s", drain.running, patience)
    waits = [asyncio.create_task(drain.idle(patience)), asyncio.create_task(hurry.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    drain.end()
    return await drain.idle(FAREWELL)


@contextlib.asynccontextmanager
async def _signals(reload: Callable[[], object] | None) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Two events: asked to stop, and asked again. Handlers only note; the loop acts."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def noted() -> None:
        (hurry if stop.is_set() else stop).set()

    actions: dict[signal.Signals, Callable[[], object]] = {signal.SIGTERM: noted, signal.SIGINT: noted}
    if reload is not None:
        actions[signal.SIGHUP] = reload
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield stop, hurry
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


def _last_resort(seconds: float) -> asyncio.TimerHandle:
    def end() -> None:
        logger.error("stopping took too long; ending now")
        os._exit(UNCLEAN)

    return asyncio.get_running_loop().call_later(seconds, end)


def _config(sock: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{os.dup(sock.fileno())}"]
    config.graceful_timeout = FAREWELL
    config.include_server_header = False
    config.errorlog = logging.getLogger("ollmlx.http")
    config.accesslog = None
    return config


def _listen(host: str) -> tuple[socket.socket, Address]:
    address = served_address(host)
    try:
        sock = listening_socket(address)
    except OSError as error:
        raise _refused(address, error) from error
    return sock, bound_address(sock, address)


def _refused(address: Address, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        who = _listener(address.port)
        told = f" by {who}" if who else ""
        return ConfigError(
            f"{address.netloc} is in use{told}",
            code="NET001",
            hint="stop it, or listen elsewhere: ollmlx serve --host 127.0.0.1:11435",
        )
    return ConfigError(
        f"cannot listen on {address.netloc}: {error.strerror}", code="NET001", hint="ollmlx doctor server"
    )


def _listener(port: int) -> str | None:
    """The program that listens on a port, as far as this user may see it."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None
