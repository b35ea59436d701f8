"""The check that a download connects to a public address, and not to a machine of the person's own network.

A registry chooses where its redirects lead, and a name's owner chooses what it resolves to. The address is checked
before the connection is made, and again on the connection itself: a name may resolve to another one the second time.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from ollmlx.errors import Forbidden
from ollmlx.storekit.threads import to_transfer_thread

if TYPE_CHECKING:
    import httpx2

_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for the IPv4 address in their last 32 bits (NAT64)."""


def is_public(address: str) -> bool:
    """Return True for an address that belongs to the internet; False also for a text that is no address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


def is_named(host: str, port: int | None, hosts: Collection[str]) -> bool:
    """Return True if `hosts` has this host, alone or with this port."""
    host = host.lower()
    return any(name.lower() in (host, f"{host}:{port}") for name in hosts)


class PublicAddresses:
    """A hook for every request of an HTTP client. `private_hosts`: names that may be on any address."""

    def __init__(self, private_hosts: Collection[str]) -> None:
        self._private_hosts = private_hosts

    async def __call__(self, request: httpx2.Request) -> None:
        """Have the connection of this request checked, unless its host is named. Raises Forbidden."""
        url = request.url
        if is_named(url.host, url.port or {"http": 80, "https": 443}.get(url.scheme), self._private_hosts):
            return
        if _is_address(url.host) and not is_public(url.host):
            raise _refusal(url.host)
        request.extensions["trace"] = _Connection(url.host).trace


class _Connection:
    """The connection of one request, as the HTTP library reports it."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._direct = True

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Check where the library is about to connect to, and where it has connected to. Raises Forbidden."""
        if event == "connection.connect_tcp.started":
            self._direct = info["host"] == self._host  # else it is a proxy, which the person has configured
            addresses = await _addresses(self._host) if self._direct else []
        elif event == "connection.connect_tcp.complete" and self._direct:
            connection = info["return_value"]
            addresses = [str(connection.get_extra_info("server_addr")[0])]
            if not is_public(addresses[0]):
                await connection.aclose()
        else:
            return
        if not all(map(is_public, addresses)):
            raise _refusal(self._host)


async def _addresses(host: str) -> list[str]:
    import httpx2

    try:
        found = await to_transfer_thread(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx2.ConnectError(str(error)) from error
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _refusal(host: str) -> Forbidden:
    return Forbidden(
        f"{host} is not on a public address: nothing is downloaded from there",
        code="NET005",
        hint="if it is yours, name it in [security] private_hosts of ollmlx.toml",
    )
