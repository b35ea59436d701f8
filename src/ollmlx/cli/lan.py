"""`ollmlx serve --lan`: a daemon for the machines of this network, with a key, and what their clients need."""

from __future__ import annotations

import io
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ollmlx.settings.files import private_file
from ollmlx.text.addresses import Address, join_host_port

if TYPE_CHECKING:
    from pathlib import Path

    from ollmlx.settings import Settings

KEY_FILE: Final = "lan.key"
"""The key in the state folder. It stays the same, so that clients are set up once."""
EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - what --lan is for
_ANY_PUBLIC: Final = ("192.0.2.1", 9)
"""An address beyond this network, of the range for documentation. Nothing is sent to it."""


def lan_overrides(settings: Settings) -> dict[str, object]:
    """Return the settings that open the daemon to its network, by dotted key; what is set already stays.

    Makes a key where none is configured and none was made before.
    """
    address = Address.parse(settings.server.host)
    found: dict[str, object] = {}
    if address.is_local and address.host != EVERY_ADDRESS:
        found["server.host"] = join_host_port(EVERY_ADDRESS, address.port)
    if not settings.security.has_keys and not settings.security.allow_no_auth:
        found["security.api_keys"] = [_kept_key(settings.state_folder)]
    return found


def client_lines(settings: Settings, machine: str, address: str | None) -> Iterator[str]:
    """Yield what to do on the other machines. `machine`: this one's name; `address`: its own in the network."""
    port = Address.parse(settings.server.host).port
    name = machine if "." in machine else f"{machine}.local"
    key = settings.security.own_key or ("KEY" if settings.security.has_keys else "")
    yield "Machines of this network reach the daemon so:"
    yield f"  export OLLAMA_HOST=http://{name}:{port}" + (f" OLLAMA_API_KEY={key}" if key else "")
    openai = f"  export OPENAI_BASE_URL=http://{name}:{port}/v1"
    yield openai + f" OPENAI_API_KEY={key or 'none'}"
    if address:
        yield f"Where {name} is not found, use {address}. The page is {page_address(settings, address)}"


def page_address(settings: Settings, address: str) -> str:
    """Return where a browser of another machine finds the web page."""
    return f"http://{join_host_port(address, Address.parse(settings.server.host).port)}/ui/"


def qr_code(text: str) -> str:
    """Return a QR code as text, two of its rows a line."""
    import segno

    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, compact=True)
    return out.getvalue()


def own_address() -> str | None:
    """Return this machine's address in its network; None without a network."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ANY_PUBLIC)  # of a datagram socket: it only chooses the route
        return str(probe.getsockname()[0])
    return None


def _kept_key(state: Path) -> str:
    file = private_file(state, KEY_FILE)
    key = file.read_text("ascii", "replace").strip()
    if not key:
        key = secrets.token_hex(24)
        file.write_text(key + "\n", "ascii")
    return key
