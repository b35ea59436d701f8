"""The address that the daemon listens on, and its listening socket."""

from __future__ import annotations

import socket

from ollmlx.errors import ConfigError
from ollmlx.text.addresses import Address

BACKLOG = 4096
"""Connections that the kernel holds until they are accepted, if the system allows that many."""
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


def is_wildcard(address: Address) -> bool:
    """Return True when the address stands for every interface of this machine."""
    return address.host in (_EVERY_V4, _EVERY)


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


def bound_address(sock: socket.socket, requested: Address) -> Address:
    """Return the requested address with the port of the socket: the system chooses one for port 0."""
    return Address(requested.host, int(sock.getsockname()[1]))


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
