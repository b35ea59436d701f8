"""Errors of binding the address: which program uses the port, and what to do about it."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from typing import Any

from ollmlx.errors import ConfigError, Conflict, OllmlxError
from ollmlx.text.addresses import Address

TIMEOUT = 1.0  # seconds for the program that listens there to answer


def bind_error(address: Address, error: OSError) -> OllmlxError:
    """Return the error to show when binding an address failed with `error`."""
    where = address.netloc
    if error.errno == errno.EADDRINUSE:
        return _port_in_use(address)
    if error.errno == errno.EACCES:
        return ConfigError(f"cannot listen on {where}: ports below 1024 need privileges", code="NET001")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"cannot listen on {where}: this machine has no such address", code="NET001")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}", code="NET001")


def _port_in_use(address: Address) -> Conflict:
    message = f"{address.netloc} is in use by {program_at(address)}"
    readiness = _get(address, "/readyz") or {}
    if not readiness.get("stopping"):
        return Conflict(message, code="NET001", hint="ollmlx doctor server")
    process = _process(address.port)
    now = f", or end its running requests now: kill {process[1]}" if process else ""
    return Conflict(f"{message}: {readiness.get('error')}", code="NET001", hint=f"start again when it has ended{now}")


def is_listening(address: Address) -> bool:
    """Return True when a program accepts connections at this address."""
    if address.port == 0:
        return False
    try:
        with socket.create_connection((address.dialled, address.port), timeout=TIMEOUT):
            return True
    except OSError:
        return False


def program_at(address: Address) -> str:
    """Describe the program that listens there: by its answer over HTTP, and by its process if the system shows it."""
    process = _process(address.port)
    reply = _get(address, "/api/version") or _get(address, "/api/daemon") or {}
    product = f"Ollama {reply['version']}" if "version" in reply else None
    if "ollmlx" in reply or "protocol" in reply:
        product = f"another ollmlx {reply.get('ollmlx') or reply['version']}"
    pid = f"{process[0]}, pid {process[1]}" if process else None
    if product and pid:
        return f"{product} ({pid})"
    return product or pid or "another program"


def _get(address: Address, path: str) -> dict[str, Any] | None:
    """Return the JSON object at this path; None when there is none."""
    connection = http.client.HTTPConnection(address.dialled, address.port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        reply = json.loads(connection.getresponse().read(4096))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return reply if isinstance(reply, dict) else None


def _process(port: int) -> tuple[str, int] | None:
    """Return name and id of the process that listens on a port; None when the system does not show it."""
    import psutil  # needed for this error only

    try:
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid:
                return psutil.Process(found.pid).name(), found.pid
    except (psutil.Error, OSError):  # some systems hide the processes of other users
        return None
    return None
