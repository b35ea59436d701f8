"""Processes and ports, as far as the operating system shows them to this user."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOCK = "ollmlx.lock"


@dataclass(frozen=True)
class Process:
    """A process. `uid` is None and `command` is empty if the system hides them."""

    pid: int
    name: str
    command: tuple[str, ...] = ()
    user: str = ""
    uid: int | None = None

    def __str__(self) -> str:
        return f"{self.name}, pid {self.pid}" + (f", user {self.user}" if self.user else "")


@dataclass(frozen=True)
class Completed:
    """A finished child process: its output and exit status (negative: a signal; None: it exceeded the time limit)."""

    status: int | None
    out: str
    err: str


class Processes:
    """Reads processes and ports from the operating system."""

    def listener(self, port: int) -> Process | None:
        """Return the process that listens on a TCP port; None if there is none, or the system hides it."""
        try:
            connections = psutil.net_connections("tcp")
        except (psutil.Error, OSError):  # macOS shows other users' sockets to root only
            return None
        for one in connections:
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                return self.get(one.pid)
        return None

    def listens(self, pid: int) -> tuple[str, ...]:
        """Return the addresses on which a process listens, as HOST:PORT; empty if there are none or they are hidden."""
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except (psutil.Error, OSError):
            return ()
        local = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN and one.laddr]
        return tuple(f"[{end.ip}]:{end.port}" if ":" in end.ip else f"{end.ip}:{end.port}" for end in local)

    def get(self, pid: int) -> Process | None:
        """Return the process with an id."""
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

    def lock_owner(self, state_folder: Path) -> Process | None:
        """Return the daemon that holds the lock of a state folder; None if it does not run.

        It may listen at another address than the one in the settings.
        """
        try:
            text = (state_folder / LOCK).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            return None
        process = self.get(int(text)) if text.isdigit() else None
        # The process id may have been reused: then the command is another program's, where the system shows it.
        if process is None or (process.command and not any("ollmlx" in word for word in process.command)):
            return None
        return process

    def variables(self, pid: int) -> Mapping[str, str]:
        """Return the environment of a process; empty if it may not be read."""
        try:
            return psutil.Process(pid).environ()
        except psutil.Error:
            return {}

    def connects(self, host: str, port: int, seconds: float = 1.0) -> bool:
        """Return True if a connection to the address is accepted."""
        try:
            with socket.create_connection((host, port), timeout=seconds):
                return True
        except OSError:
            return False

    def bindable(self, host: str, port: int) -> str | None:
        """Return the reason why a server cannot bind this address; None if it can."""
        try:
            family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(name)
        except (OSError, UnicodeError) as error:
            return getattr(error, "strerror", None) or str(error)
        return None


async def run_child(argv: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None) -> Completed:
    """Run a program without input; kill it after `seconds`. Raises OSError if it cannot be started."""
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
