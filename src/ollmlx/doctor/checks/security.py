"""Checks of security: whether other machines, web pages and users can reach the daemon or read its secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, export_setting, quoted, restart_daemon
from ollmlx.errors import ConfigError
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.addresses import Address, is_loopback

SHORTEST_KEY = 16
NEW_KEY = "export OLLMLX_SECURITY__API_KEYS=$(openssl rand -hex 24)"


@check("exposure", "server", "SEC001", "SEC006")
async def exposure(context: CheckContext) -> list[Finding]:
    """Report an address that other machines reach without a key, and origins that let in every web page.

    What the running daemon says of itself counts more than the settings.
    """
    findings = []
    security, status = context.settings.security, await context.ask("/api/daemon") or {}
    running = _address(status.get("address"))
    open_in_settings = not is_loopback(context.address.host) and not security.api_keys
    open_now = running is not None and not is_loopback(running.host) and status.get("api_keys") is False
    if open_now if running is not None else open_in_settings:
        address = running or context.address
        answers = status.get("allow_no_auth") if running is not None else security.allow_no_auth
        restart = restart_daemon(context, status) if running is not None else ()
        local = export_setting(context, ("server", "host"), f"127.0.0.1:{address.port}")
        findings.append(
            found(
                "SEC001", f"{address.netloc} is reachable from other machines, and there is no API key",
                evidence=("requests from other machines are " + ("answered" if answers else "refused"),),
                severity=Severity.ERROR if answers else Severity.WARNING,
                commands=(NEW_KEY, *restart) if open_in_settings else restart, instead=(local, *restart),
            )
        )  # fmt: skip
    if "*" in context.settings.server.origins:
        origin = context.origin("server", "origins")
        commands, _ = edit_settings(context, origin)
        title = "[server] origins lets any web page call the daemon"
        findings.append(found("SEC006", title, evidence=(str(origin),), commands=(*commands, "ollmlx config check")))
    return findings


@check("secrets", "server", "SEC007", "SEC008")
def secrets(context: CheckContext) -> Iterator[Finding]:
    """Report short keys, and files with keys, logs or prompts that other users of this machine can read."""
    keys = context.settings.security.api_keys
    if any(len(key) < SHORTEST_KEY for key in keys):
        origin = context.origin("security", "api_keys")
        edit = ("openssl rand -hex 24", *edit_settings(context, origin)[0])
        title = f"an API key has fewer than {SHORTEST_KEY} characters"
        yield found("SEC008", title, evidence=(str(origin),), commands=edit if origin.kind == "file" else (NEW_KEY,))
    for file in context.loaded.files if context.loaded and keys else ():
        with suppress(OSError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                title = f"{file} holds API keys and can be read by other users"
                yield found("SEC007", title, evidence=(f"mode {mode:o}",), commands=(f"chmod 600 {quoted(file)}",))
    state = context.settings.state_folder
    with suppress(OSError):
        mode = stat.S_IMODE(state.stat().st_mode)
        if mode & 0o077 and context.is_reliable("storage", "state"):
            title = f"other users can read the state folder {state}"
            yield found("SEC007", title, evidence=(f"mode {mode:o}",), commands=(f"chmod 700 {quoted(state)}",))


def _address(text: object) -> Address | None:
    """Parse the address that a daemon reports; None if it reports none."""
    with suppress(ConfigError):
        return Address.parse(text) if isinstance(text, str) else None
    return None
