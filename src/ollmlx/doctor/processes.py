"""Processes and ports, as far as the system lets us see them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """One process. `uid` and `command` are None and empty where the system hides them."""

    pid: int
    name: str
    command: tuple[str, ...] = ()
    user: str = ""
    uid: int | None = None

    def __str__(self) -> str:
        return f"{self.name}, pid {self.pid}" + (f", user {self.user}" if self.user else "")


@dataclass(frozen=True)
class Completed:
    """How a child ended: exit status (negative: a signal; None: it was killed for taking too long), its output."""

    status: int | None
    out: str
    err: str


class Processes:
    """The real ones."""

    def listener(self, port: int) -> Process | None:
        """Who listens on a TCP port; None when nobody does, or the system does not tell."""
        try:
            connections = psutil.net_connections("tcp")
        except (psutil.Error, OSError):  # macOS shows other users' sockets to root only
            return None
        for one in connections:
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return self.get(one.pid)
        return None

    def listens(self, pid: int) -> tuple[str, ...]:
        """Where a process listens, as HOST:PORT; empty when it does not, or the system does not tell."""
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except (psutil.Error, OSError):
            return ()
        places = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN and one.laddr]
        return tuple(f"[{at.ip}]:{at.port}" if ":" in at.ip else f"{at.ip}:{at.port}" for at in places)

    def get(self, pid: int) -> Process | None:
        """A process by its id."""
        try:
            found = psutil.Process(pid)
            with found.oneshot():
                name = found.name()
                command: Sequence[str] = ()
                user, uid = "", None
                with suppress(psutil.AccessDenied):
                    command = found.cmdline()
                with suppress(psutil.AccessDenied, KeyError):
                    user, uid = found.username(), found.uids().real
        except psutil.Error:
            return None
        return Process(pid, name, tuple(command), user, uid)

    def variables(self, pid: int) -> Mapping[str, str]:
        """The environment of a process; empty when it may not be read."""
        try:
            return psutil.Process(pid).environ()
        except psutil.Error:
            return {}

    def connects(self, host: str, port: int, seconds: float = 1.0) -> bool:
        """Whether somebody accepts connections there."""
        try:
            with socket.create_connection((host, port), timeout=seconds):
                return True
        except OSError:
            return False

    def bindable(self, host: str, port: int) -> str | None:
        """Why a server cannot bind this address; None when it can."""
        try:
            family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except (OSError, UnicodeError) as error:
            return getattr(error, "strerror", None) or str(error)
        return None


async def run_child(argv: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None) -> Completed:
    """Run a program without input, and end it when it takes too long. Raises OSError when it cannot be started."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environ) if environ is not None else dict(os.environ),
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        return Completed(None, "", "")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    return Completed(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
