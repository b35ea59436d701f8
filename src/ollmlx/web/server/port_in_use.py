"""The port is taken: by whom, and what to do."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from typing import Any

from ollmlx.errors import ConfigError, Conflict, OllmlxError
from ollmlx.text.addresses import Address

PATIENCE = 1.0  # seconds for whoever listens there to say who it is


def bind_error(address: Address, error: OSError) -> OllmlxError:
    """What to tell when an address cannot be listened on."""
    where = address.netloc
    if error.errno == errno.EADDRINUSE:
        return _taken(address)
    if error.errno == errno.EACCES:
        return ConfigError(f"cannot listen on {where}: ports below 1024 need privileges", code="NET001")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"cannot listen on {where}: this machine has no such address", code="NET001")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}", code="NET001")


def _taken(address: Address) -> Conflict:
    message = f"{address.netloc} is in use by {listener_of(address)}"
    told = _asked(address, "/readyz") or {}
    if not told.get("stopping"):
        return Conflict(message, code="NET001", hint="ollmlx doctor server")
    process = _process(address.port)
    now = f", or end its running requests now: kill {process[1]}" if process else ""
    return Conflict(f"{message}: {told.get('error')}", code="NET001", hint=f"start again when it has ended{now}")


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
    process = _process(address.port)
    told = _asked(address, "/api/version") or _asked(address, "/api/daemon") or {}
    spoken = f"Ollama {told['version']}" if "version" in told else None
    if "ollmlx" in told or "protocol" in told:
        spoken = f"another ollmlx {told.get('ollmlx') or told['version']}"
    named = f"{process[0]}, pid {process[1]}" if process else None
    if spoken and named:
        return f"{spoken} ({named})"
    return spoken or named or "another program"


def _asked(address: Address, path: str) -> dict[str, Any] | None:
    """The JSON object that is answered there; None where nobody answers with one."""
    connection = http.client.HTTPConnection(address.dialled, address.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read(4096))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None


def _process(port: int) -> tuple[str, int] | None:
    """The name and the id of the process that listens there."""
    import psutil

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return psutil.Process(found.pid).name(), found.pid
    except (psutil.Error, OSError):  # other users' processes are hidden on some systems
        return None
    return None
