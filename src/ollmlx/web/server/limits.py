"""Limits of open connections: in all, and from one address. A new one takes the place of the oldest silent one.

Connections come before keys: whoever reaches the port can open them, and each costs a descriptor.
"""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import suppress
from typing import Protocol, Self

from ollmlx.text.addresses import is_loopback

MOST = 8192
"""Connections in all, where the system allows that many descriptors."""
RESERVED = 256
"""Descriptors for everything else: runners, files, downloads."""
OWNERS = 32
"""Connections beyond the others that only this machine's programs may open: the person can always stop the daemon."""


class Connected(Protocol):
    """The part of a connection that is used here."""

    peer: str

    def abort(self) -> None:
        """Close it without waiting for its client."""


class ConnectionLimits:
    """Counts the connections of one server. `most` may be open; addresses of other machines get half of them each."""

    def __init__(self, most: int = MOST, per_peer: int | None = None, owners: int = OWNERS) -> None:
        self.most = most
        self._per_peer = max(1, most // 2) if per_peer is None else per_peer
        self._owners = owners
        self._open: Counter[str] = Counter()
        self._silent: dict[Connected, None] = {}

    @classmethod
    def of_this_process(cls) -> Self:
        """Raise the limit of open files as far as the system allows; return limits that fit it."""
        return cls(max(OWNERS, min(MOST, raise_descriptor_limit() - RESERVED)))

    def admit(self, peer: str) -> bool:
        """Count a new connection, and close a silent one if it needs its place. False: there is no place for it."""
        local = is_loopback(peer)
        full = self._open.total() >= self.most + (self._owners if local else 0)
        if not local and self._open[peer] >= self._per_peer:
            admitted = self._close_oldest(peer)
        else:
            admitted = not full or self._close_oldest(peer if local else None)
        self._open[peer] += admitted
        return admitted

    def leave(self, peer: str) -> None:
        """Count a connection that has ended."""
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]

    def set_silent(self, connection: Connected, silent: bool) -> None:
        """Note that a connection is, or is not, between requests; also before the head of its first one is complete."""
        self._silent.pop(connection, None)
        if silent:
            self._silent[connection] = None

    def _close_oldest(self, peer: str | None) -> bool:
        """Close the connection that has been silent longest: of this address, or of any other machine's."""
        for connection in self._silent:
            if connection.peer == peer or (peer is None and not is_loopback(connection.peer)):
                del self._silent[connection]
                connection.abort()
                return True
        return False


def raise_descriptor_limit() -> int:
    """Raise the limit of open files of this process to the hard one. Returns the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 2 * MOST)
    with suppress(OSError, ValueError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
