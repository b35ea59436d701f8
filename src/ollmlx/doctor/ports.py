"""What to type when an address is taken: stop who has it, listen elsewhere, start the daemon anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ollmlx.settings.keys import KeyPath, variable
from ollmlx.text.addresses import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext

TRIED = 50
PRIVILEGED = 1024
SERVE = "ollmlx serve"
OLLAMAS: dict[KeyPath, str] = {("server", "host"): "OLLAMA_HOST", ("storage", "models"): "OLLAMA_MODELS"}


def exported(world: CheckContext, path: KeyPath, value: str) -> str:
    """Set a key in this terminal, by the variable that wins: Ollama's own, unless ours is set already."""
    ours = world.origin(*path).kind == "variable" or path not in OLLAMAS
    return f"export {variable(path) if ours else OLLAMAS[path]}={value}"


def elsewhere(world: CheckContext) -> tuple[str, ...]:
    """Listen on the next port that is free, on this machine alone unless the host was asked for and can be had."""
    address = world.address
    first = address.port + 1 if address.port >= PRIVILEGED else DEFAULT_PORT
    for host in (address.host, DEFAULT_HOST):
        for port in range(first, min(first + TRIED, 65536)):
            if world.processes.bindable(host, port) is None:
                netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                return exported(world, ("server", "host"), netloc), SERVE
    return exported(world, ("server", "host"), f"{DEFAULT_HOST}:{DEFAULT_PORT}"), SERVE


def stopped(world: CheckContext, *, ollama: bool = False) -> tuple[str, ...]:
    """End the program that has the port, or find out which it is."""
    process = world.processes.listener(world.address.port)
    if ollama and world.machine.system == "darwin":
        return ("osascript -e 'quit app \"Ollama\"'",)
    if process is None:
        port = world.address.port
        return (f"sudo lsof -nP -iTCP:{port} -sTCP:LISTEN",)
    if process.uid in (world.user, None):
        return (f"kill {process.pid}",)
    return ("sudo systemctl stop ollama",) if ollama else (f"sudo kill {process.pid}",)


def restarted(world: CheckContext, told: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """End the daemon and start one with the settings of this terminal. `told`: what it said of itself."""
    pid = (told or {}).get("pid")
    return (f"kill {pid}" if isinstance(pid, int) else stopped(world)[0], SERVE)
