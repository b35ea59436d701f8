"""Who can reach the daemon, and who can read its secrets?"""

from __future__ import annotations

import ipaddress
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit
from ollmlx.doctor.ports import exported, restarted
from ollmlx.errors import ConfigError
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.addresses import Address

SHORTEST_KEY = 16
NEW_KEY = "export OLLMLX_SECURITY__API_KEYS=$(openssl rand -hex 24)"


@check("exposure", "server", "SEC001", "SEC006")
async def exposure(world: CheckContext) -> list[Finding]:
    """An address beyond this machine needs a key, the running daemon's as well; `*` lets every web page in."""
    findings = []
    security, told = world.settings.security, await world.ask("/api/daemon") or {}
    running = _address(told.get("address"))
    open_here = not _only_here(world.address.host) and not security.api_keys
    open_there = running is not None and not _only_here(running.host) and told.get("api_keys") is False
    if open_there if running is not None else open_here:
        address = running or world.address
        answers = told.get("allow_no_auth") if running is not None else security.allow_no_auth
        again = restarted(world, told) if running is not None else ()
        here = exported(world, ("server", "host"), f"127.0.0.1:{address.port}")
        findings.append(
            found(
                "SEC001", f"{address.netloc} is reachable from other machines, and there is no API key",
                evidence=("calls from other machines are " + ("answered" if answers else "refused"),),
                severity=Severity.ERROR if answers else Severity.WARNING,
                commands=(NEW_KEY, *again) if open_here else again, instead=(here, *again),
            )
        )  # fmt: skip
    if "*" in world.settings.server.origins:
        origin = world.origin("server", "origins")
        mend, _ = edit(world, origin, "", None)
        title = "[server] origins lets any web page call the daemon"
        findings.append(found("SEC006", title, evidence=(str(origin),), commands=(*mend, "ollmlx config check")))
    return findings


@check("secrets", "server", "SEC007", "SEC008")
def secrets(world: CheckContext) -> Iterator[Finding]:
    """Keys that are short, and what other users of this machine can read: keys, logs, prompts that were saved."""
    keys = world.settings.security.api_keys
    if any(len(key) < SHORTEST_KEY for key in keys):
        origin = world.origin("security", "api_keys")
        mend = ("openssl rand -hex 24", *edit(world, origin, "", None)[0]) if origin.kind == "file" else (NEW_KEY,)
        title = f"an API key has fewer than {SHORTEST_KEY} characters"
        yield found("SEC008", title, evidence=(str(origin),), commands=mend)
    for file in world.loaded.files if world.loaded and keys else ():
        with suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                told = f"{file} holds API keys and can be read by other users"
                yield found("SEC007", told, evidence=(f"mode {mode:o}",), commands=(f"chmod 600 {_shell(file)}",))
    state = world.settings.state_folder
    with suppress(OSError):
        mode = stat.S_IMODE(state.stat().st_mode)
        if mode & 0o077 and world.knows("storage", "state"):
            told = f"the state folder {state} is open to other users"
            yield found("SEC007", told, evidence=(f"mode {mode:o}",), commands=(f"chmod 700 {_shell(state)}",))


def _shell(path: Path) -> str:
    return shlex.quote(str(path))


def _address(text: object) -> Address | None:
    """Where a daemon says that it listens; None for one that does not say."""
    with suppress(ConfigError):
        return Address.parse(text) if isinstance(text, str) else None
    return None


def _only_here(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
