"""The port is taken: by whom, and what to do."""

from __future__ import annotations

import errno
import http.client
import json
import socket

from ollmlx.address import Address
from ollmlx.errors import ConfigError, Conflict, OllmlxError

PATIENCE = 1.0  # seconds for whoever listens there to say who it is


def bind_error(address: Address, error: OSError) -> OllmlxError:
    """What to tell when an address cannot be listened on."""
    where = address.netloc
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"{where} is in use by {listener_of(address)}",
            code="NET001",
            hint="ollmlx doctor server",
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"cannot listen on {where}: ports below 1024 need privileges", code="NET001")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"cannot listen on {where}: this machine has no such address", code="NET001")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}", code="NET001")


def answered(address: Address) -> bool:
    """Whether somebody accepts connections there already."""
    if address.port == 0:
        return False
    try:
        with socket.create_connection((address.dialled, address.port), timeout=PATIENCE):
            return True
    except OSError:
        return False


def listener_of(address: Address) -> str:
    """Who listens there: what it says of itself over HTTP, and its process where the system tells."""
    spoken = _speaks(address)
    process = _process(address.port)
    if spoken and process:
        return f"{spoken} ({process})"
    return spoken or process or "another program"


def _speaks(address: Address) -> str | None:
    connection = http.client.HTTPConnection(address.dialled, address.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/api/version")
        answer = json.loads(connection.getresponse().read(4096))
        if "ollmlx" in answer:
            return f"another ollmlx {answer['ollmlx']}"
        return f"Ollama {answer['version']}" if "version" in answer else None
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _process(port: int) -> str | None:
    import psutil

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return f"{psutil.Process(found.pid).name()}, pid {found.pid}"
    except (psutil.Error, OSError):  # other users' processes are hidden on some systems
        return None
    return None
