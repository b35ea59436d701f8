"""The address of the daemon, in the notation of OLLAMA_HOST: `host`, `host:port`, `:port`, `[::1]:port`, `https://host/path`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ollmlx.errors import ConfigError
from ollmlx.errors.secrets import mask_text

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11434

_SCHEME_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on or to call. `path`: the prefix of a daemon behind a proxy, without the last slash."""

    host: str
    port: int
    scheme: str = "http"
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address. The defaults are 127.0.0.1 and 11434. Raises ConfigError with the reason."""
        rest = text.strip().strip("\"'")
        scheme, separator, tail = rest.partition("://")
        port = DEFAULT_PORT
        if separator:
            if scheme.lower() not in _SCHEME_PORTS:
                raise _invalid(text, "the scheme must be http or https")
            port, rest = _SCHEME_PORTS[scheme.lower()], tail
        location, _, path = rest.partition("/")
        host, port = _split(location, text, port)
        path = path.strip("/")
        return cls(host, port, scheme.lower() if separator else "http", f"/{path}" if path else "")

    @property
    def dialled(self) -> str:
        """The host that a client connects to. A wildcard address means this machine."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - replaced, not bound

    @property
    def is_local(self) -> bool:
        """True if the host is this machine by its name alone, without a look-up."""
        return is_loopback(self.dialled)

    @property
    def netloc(self) -> str:
        return join_host_port(self.host, self.port)

    @property
    def url(self) -> str:
        """The URL that a client calls, without a slash at its end."""
        return f"{self.scheme}://{join_host_port(self.dialled, self.port)}{self.path}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"


def is_loopback(host: str) -> bool:
    """Return True when a host name or literal address can only be reached from this machine."""
    found = _ip(host.partition("%")[0])
    if found is None:
        return host.rstrip(".").lower() == "localhost"
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(location: str, text: str, port: int) -> tuple[str, int]:
    if "@" in location:
        raise _invalid(text.rpartition("@")[2], "it has no place for a user and a password")
    if location.startswith("["):
        host, bracket, rest = location[1:].partition("]")
        if not bracket or not _ip(host) or (rest and not rest.startswith(":")):
            raise _invalid(text, "an IPv6 address is written [::1]:11434")
        digits = rest[1:]
    elif _ip(location):
        host, digits = location, ""
    elif location.count(":") > 1:
        raise _invalid(text, "an IPv6 address is written [::1]:11434")
    else:
        host, _, digits = location.partition(":")
        if host and not _HOST.fullmatch(host):
            raise _invalid(text, f"{host!r} is not a host name")
    if digits:
        if not digits.isascii() or not digits.isdigit() or int(digits) > 65535:
            raise _invalid(text, f"{digits!r} is not a port")
        port = int(digits)
    return host or DEFAULT_HOST, port


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _invalid(text: str, reason: str) -> ConfigError:
    return ConfigError(
        f"invalid address {mask_text(text)!r}: {reason}", hint="write HOST:PORT, for example 127.0.0.1:11434"
    )
