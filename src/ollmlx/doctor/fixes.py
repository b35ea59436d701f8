"""The commands that fix a problem: in the settings, for an address that is in use, with pip."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.machine import Process
from ollmlx.errors.findings import SafeCommand
from ollmlx.errors.secrets import is_secret_key
from ollmlx.settings.faults import Fault, Origin, likely_key
from ollmlx.settings.keys import KeyPath, variable
from ollmlx.text.addresses import DEFAULT_HOST, DEFAULT_PORT, join_host_port

SERVE = "ollmlx serve"
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
OLLAMA_VARIABLES: dict[KeyPath, str] = {("server", "host"): "OLLAMA_HOST", ("storage", "models"): "OLLAMA_MODELS"}

SERVICES = {
    "systemd": ".config/systemd/user/ollmlx.service",
    "launchd": "Library/LaunchAgents/io.ollmlx.daemon.plist",
}
"""The parent process of a daemon that is a service, and the file in the home folder that makes it one."""

Fixes = tuple[tuple[str, ...], tuple[str, ...]]
"""Commands that fix a problem, and commands of another way to fix it."""


def quoted(path: Path) -> str:
    """Return a path as it is typed in a shell."""
    return shlex.quote(str(path))


def other_folder(variable: str, name: str, *, create: bool = False) -> tuple[str, ...]:
    """Return the commands that use another folder: in the home folder if that can be written, else a new one."""
    home = os.environ.get("HOME", "")
    usable = os.path.isabs(home) and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK)  # noqa: PTH112, PTH117
    folder = f'"$HOME/{name}"' if usable else f'"/var/tmp/$(id -un)/{name}"'
    make = [SafeCommand(f"mkdir -p {folder}")] if create or not usable else []
    return *make, SafeCommand(f"export {variable}={folder}")


def settings_fixes(context: CheckContext, fault: Fault) -> Fixes:
    """Return the commands that remove a fault of the settings."""
    origin = fault.origin
    if origin.kind in ("ollama", "variable"):
        return (SafeCommand(f"unset {shlex.quote(origin.name)}"),), ()
    if fault.code == "CFG001" and not origin.line:  # with a line it can be read, and is no TOML
        return _unreadable_file_fixes(context, origin.name)
    if fault.code == "CFG013":
        return _trust(context, fault), ()
    likely = likely_key(fault.path) if fault.code == "CFG003" else None
    return edit_settings(context, origin, fault.path[-1] if fault.path else "", likely)


def _trust(context: CheckContext, fault: Fault) -> tuple[str, ...]:
    """Trust a file of the working folder; first keep other users from changing it."""
    if fault.path:
        return (SafeCommand("ollmlx config trust", asks=True),)
    file = Path(fault.origin.name)
    foreign = [one for one in (Path(), file) if one.exists() and one.stat().st_uid != context.user]
    own = [f'sudo chown "$(id -un)" {quoted(one)}' for one in foreign]
    return (*own, SafeCommand(f"chmod go-w . {quoted(file)}"))


def _unreadable_file_fixes(context: CheckContext, name: str) -> Fixes:
    file = context.file or Path(name)
    new = SafeCommand(f"ollmlx config init {quoted(file)}")
    command = allow_reading(context, file) if file.is_file() else new
    commands = () if file.is_dir() else (command,)
    if context.environ.get("OLLMLX_CONFIG") == name:
        return (SafeCommand("unset OLLMLX_CONFIG"),), commands
    return commands, ()


def allow_reading(context: CheckContext, file: Path) -> str:
    """Return the command that lets this user read a file: another user's has to become theirs."""
    ours = file.stat().st_uid == context.user
    return SafeCommand(f"chmod u+r {quoted(file)}") if ours else f'sudo chown "$(id -un)" {quoted(file)}'


def private(context: CheckContext, path: Path) -> tuple[str, ...]:
    """Return the commands that keep other users from reading a file or a folder; only its owner may change its mode."""
    change = f"chmod {'700' if path.is_dir() else '600'} {quoted(path)}"
    if path.stat().st_uid == context.user:
        return (SafeCommand(change),)
    return f'sudo chown "$(id -un)" {quoted(path)}', change


def edit_settings(context: CheckContext, origin: Origin, wrong: str = "", right: str | None = None) -> Fixes:
    """Replace one word of the settings file where that is enough; otherwise open the file at the line."""
    if origin.kind != "file" or context.file is None:
        return (SafeCommand(f"unset {shlex.quote(origin.name)}"),) if origin.kind in ("ollama", "variable") else (), ()
    place = context.file.resolve()  # an editor that replaces the file would replace a link to it
    file, line = quoted(place), origin.line
    editor = (SafeCommand(f"${{EDITOR:-vi}} +{line or 1} {file}", asks=True, changes=place),)
    if right and line and BARE_KEY.fullmatch(wrong) and wrong in settings_line(context, origin):
        return (SafeCommand(f"sed -i.bak '{line}s/{wrong}/{right}/' {file}", changes=place),), editor
    return editor, ()


def settings_line(context: CheckContext, origin: Origin, *, keyed: bool = True) -> str:
    """Return the line of the settings file, or nothing if it may hold a secret. `keyed`: the line holds its key."""
    if origin.kind != "file" or not origin.line or context.file is None:
        return ""
    try:
        lines = context.file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    line = lines[origin.line - 1].strip() if origin.line <= len(lines) else ""
    secret = is_secret_key(line) or (not keyed and any(map(is_secret_key, lines)))
    return f"> {line[:100]}" if line and not secret else ""


def export_setting(context: CheckContext, path: KeyPath, value: str) -> str:
    """Set a key in this terminal: with Ollama's variable, unless ours is already set and would override it.

    `value` is written as a shell reads it.
    """
    ours = context.origin(*path).kind == "variable" or path not in OLLAMA_VARIABLES
    return SafeCommand(f"export {variable(path) if ours else OLLAMA_VARIABLES[path]}={value}")


def listen_elsewhere(context: CheckContext) -> tuple[str, ...]:
    """Start the daemon on the next free port: of the host in the settings if it can be bound, else of this machine."""
    address = context.address
    first = address.port + 1 if address.port >= 1024 else DEFAULT_PORT
    for host in (address.host, DEFAULT_HOST):
        for port in range(first, min(first + 50, 65536)):
            if context.processes.bindable(host, port) is None:
                return export_setting(context, ("server", "host"), join_host_port(host, port)), SERVE
    return export_setting(context, ("server", "host"), f"{DEFAULT_HOST}:{DEFAULT_PORT}"), SERVE


def stop_listener(context: CheckContext, *, ollama: bool = False) -> tuple[str, ...]:
    """Stop the program that listens on the daemon's port, or find out which program it is."""
    process = context.processes.listener(context.address.port)
    if ollama and context.machine.system == "darwin":
        return ("osascript -e 'quit app \"Ollama\"'",)
    if process is None:
        return (f"sudo lsof -nP -iTCP:{context.address.port} -sTCP:LISTEN",)
    if process.uid in (context.user, None):
        return (f"kill {process.pid}",)
    return ("sudo systemctl stop ollama",) if ollama else (f"sudo kill {process.pid}",)


def restart_daemon(context: CheckContext, status: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Stop the daemon and start one with the settings of this terminal. `status`: its answer to /api/daemon."""
    if status and "pid" in status:
        process = context.daemon_process(status)
        if process is None:
            return (f'docker restart "$(docker ps -q --filter publish={context.address.port})"',)
    else:
        process = context.processes.listener(context.address.port)
    if process is not None and is_service(context, process):
        return ("ollmlx service restart",)
    return (f"kill {process.pid}" if status and process else stop_listener(context)[0], SERVE)


def is_service(context: CheckContext, process: Process) -> bool:
    """Return True if a service manager keeps this daemon running, by what `ollmlx service install` wrote."""
    file = SERVICES.get(process.parent)
    return file is not None and (Path(context.environ.get("HOME") or "/") / file).is_file()


def own_pip(
    commands: Iterable[str],
    *,
    python: str = sys.executable,
    which: Callable[[str], str | None] = shutil.which,
    has_pip: Callable[[], bool] = lambda: find_spec("pip") is not None,
) -> tuple[str, ...]:
    """Rewrite `pip …` so that it installs into `python`, the Python that runs ollmlx.

    The pip of the terminal is used if it lies beside that Python, then `python -P -m pip`, then uv, which makes
    environments without pip.
    """
    return tuple(_with_pip(one, python, which, has_pip) if one.startswith("pip ") else one for one in commands)


def _with_pip(command: str, python: str, which: Callable[[str], str | None], has_pip: Callable[[], bool]) -> str:
    pip = which("pip")
    if pip is not None and Path(pip).parent == Path(python).parent:
        return command
    if not has_pip() and which("uv") is not None:
        return f"uv {command} --python {shlex.quote(python)}"
    return f"{shlex.quote(python)} -P -m {command}"  # -P: a pip.py in the folder is not pip
