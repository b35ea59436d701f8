"""Who can reach the daemon, and who can read its secrets?"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from contextlib import suppress

from ollmlx.doctor.check import check, found
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

SHORTEST_KEY = 16


@check("exposure", "server", "SEC001", "SEC006")
def exposure(world: World) -> Iterator[Finding]:
    """An address beyond this machine needs a key; `*` lets every web page in."""
    security = world.settings.security
    if not _only_here(world.address.host) and not security.api_keys:
        answered = "calls from other machines are " + ("answered" if security.allow_no_auth else "refused")
        yield found(
            "SEC001", f"{world.address.netloc} is reachable from other machines, and there is no API key",
            evidence=(answered,), severity=Severity.ERROR if security.allow_no_auth else Severity.WARNING,
            commands=(
                "export OLLMLX_SECURITY__API_KEYS=$(openssl rand -hex 24)", "OLLAMA_HOST=127.0.0.1:11434 ollmlx serve",
            ),
        )  # fmt: skip
    if "*" in world.settings.server.origins:
        yield found("SEC006", "[server] origins lets any web page call the daemon", commands=("ollmlx config show",))


@check("secrets", "server", "SEC007", "SEC008")
def secrets(world: World) -> Iterator[Finding]:
    """Keys that are short, or that other users of this machine can read."""
    keys = world.settings.security.api_keys
    if any(len(key) < SHORTEST_KEY for key in keys):
        title = f"an API key has fewer than {SHORTEST_KEY} characters"
        yield found("SEC008", title, commands=("openssl rand -hex 24",))
    for file in world.loaded.files if world.loaded and keys else ():
        with suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                told = f"{file} holds API keys and can be read by other users"
                yield found("SEC007", told, evidence=(f"mode {mode:o}",), commands=(f"chmod 600 {file}",))


def _only_here(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
