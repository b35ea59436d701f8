"""The address that the daemon listens on, its listening socket, and the errors of binding it."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from typing import Any

from ollmlx.errors import ConfigError, Conflict, OllmlxError
from ollmlx.supervisor.machine import listening_process
from ollmlx.text.addresses import Address

BACKLOG = 4096
"""Connections that the kernel holds until they are accepted, if the system allows that many."""
REPLY_TIMEOUT = 1.0  # seconds for a program that uses the port to answer
_EVERY_V4 = "0.0.0.0"  # noqa: S104 - only recognised here
_EVERY = "::"


def served_address(setting: str) -> Address:
    """Parse `[server] host`. Raises ConfigError when the daemon cannot listen on it."""
    address = Address.parse(setting)
    if address.scheme != "http" or address.path:
        raise ConfigError(
            f"[server] host: cannot listen on {setting!r}: only plain HTTP without a path is served",
            code="CFG004",
            hint="write HOST:PORT, and put a proxy in front for https",
        )
    return address


def listening_socket(address: Address) -> socket.socket:
    """Return a bound, listening socket. Raises ConfigError for an unknown name, OSError when it cannot be bound."""
    family, where = _target(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.host == _EVERY else 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _target(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if address.host == _EVERY and not socket.has_dualstack_ipv6():
        return socket.AF_INET, (_EVERY_V4, address.port)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"[server] host: cannot listen on {address.netloc}: unknown host {address.host!r}", code="CFG004"
        ) from error
    family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)  # IPv4 first
    return family, (str(where[0]), address.port)


def bound_address(sock: socket.socket, requested: Address) -> Address:
    """Return the requested address with the port of the socket: the system chooses one for port 0."""
    return Address(requested.host, int(sock.getsockname()[1]))


def is_listening(address: Address) -> bool:
    """Return True when a program accepts connections at this address."""
    if address.port == 0:
        return False
    try:
        with socket.create_connection((address.dialled, address.port), timeout=REPLY_TIMEOUT):
            return True
    except OSError:
        return False


def bind_error(address: Address, error: OSError) -> OllmlxError:
    """Return the error to show when binding an address failed with `error`."""
    if error.errno == errno.EADDRINUSE:
        return _port_in_use(address)
    reasons = {
        errno.EACCES: "ports below 1024 need privileges",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }
    reason = reasons.get(error.errno or 0) or error.strerror or error
    return ConfigError(f"cannot listen on {address.netloc}: {reason}", code="NET001")


def _port_in_use(address: Address) -> Conflict:
    program = program_at(address)
    message = f"{address.netloc} is in use by {program}"
    readiness = _get(address, "/readyz")
    if not readiness.get("stopping"):
        ours = program.startswith("another ollmlx")
        hint = "use it as it is, or end it: ollmlx serve --stop" if ours else "ollmlx doctor server"
        return Conflict(message, code="NET001", hint=hint)
    process = listening_process(address.port)
    now = f", or end its running requests now: kill {process[1]}" if process else ""
    return Conflict(f"{message}: {readiness.get('error')}", code="NET001", hint=f"start again when it has ended{now}")


def program_at(address: Address) -> str:
    """Describe the program that listens there: by its answer over HTTP, and by its process if the system shows it."""
    process = listening_process(address.port)
    reply = _get(address, "/api/version") or _get(address, "/api/daemon")
    product = f"Ollama {reply['version']}" if "version" in reply else None
    if "ollmlx" in reply or "protocol" in reply:
        product = f"another ollmlx {reply.get('ollmlx') or reply['version']}"
    pid = f"{process[0]}, pid {process[1]}" if process else None
    if product and pid:
        return f"{product} ({pid})"
    return product or pid or "another program"


def _get(address: Address, path: str) -> dict[str, Any]:
    """Return the JSON object at this path; an empty one when there is none."""
    connection = http.client.HTTPConnection(address.dialled, address.port, timeout=REPLY_TIMEOUT)
    try:
        connection.request("GET", path)
        reply = json.loads(connection.getresponse().read(4096))
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return reply if isinstance(reply, dict) else {}
