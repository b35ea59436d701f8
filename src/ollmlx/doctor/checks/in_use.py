"""The check of the settings that the running daemon uses: those of the file or of this terminal may be others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import is_service, restart_daemon
from ollmlx.doctor.inventory import some_of
from ollmlx.doctor.machine import Process
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.settings.faults import DEFAULT, Origin
from ollmlx.settings.keys import dotted, variable
from ollmlx.settings.load import OLLAMA_VARIABLES
from ollmlx.settings.report import digests, effective

COMPARED_ELSEWHERE = ("server.host", "storage.models", "storage.state")
SHOWN = 5
SHELL = ("ollama", "variable")


@check("in-use", "server", "NET004")
async def in_use(context: CheckContext) -> list[Finding]:
    """Report settings that the daemon does not use: changed after its start, or variables of this terminal only."""
    status = await context.ask("/api/daemon") or {}
    theirs, process = status.get("settings"), context.daemon_process(status)
    if context.faults or not isinstance(theirs, dict) or process is None:
        return []
    variables, newer = context.processes.variables(process.pid), _is_newer(context, process)
    ours = digests(context.settings)
    origins = {dotted(one.path): one.origin for one in effective(context.loaded)}
    different = {
        key: origin
        for key in sorted({*ours, *theirs}.difference(COMPARED_ELSEWHERE))
        if ours.get(key) != theirs.get(key)
        and (key in ours or newer)
        and ((origin := origins.get(key, DEFAULT)).kind in SHELL or not _names(key) & set(variables))
    }
    return [_not_in_use(context, process, different, newer=newer)] if different else []


def _is_newer(context: CheckContext, process: Process) -> bool:
    """Return True if the settings file was changed after the daemon had been started."""
    with suppress(OSError):
        return context.file is not None and context.file.stat().st_mtime > process.started
    return False


def _names(key: str) -> set[str]:
    """Return the variables that set a key: where the daemon has one, it is stronger than the file, and was meant."""
    return {
        variable(tuple(key.split("."))),
        *(name for name, (path, _) in OLLAMA_VARIABLES.items() if dotted(path) == key),
    }


def _not_in_use(context: CheckContext, process: Process, different: Mapping[str, Origin], *, newer: bool) -> Finding:
    pid, shell = process.pid, {origin.name for origin in different.values() if origin.kind in SHELL}
    keys = [f"{key}: {origin if origin != DEFAULT else 'not set any more'}" for key, origin in different.items()]
    why = f"the daemon was started without {some_of(sorted(shell))} of this terminal" if shell else ""
    changed = "the settings file was changed after the daemon had started" if newer and not shell else ""
    restart: Sequence[str] = restart_daemon(context, {"pid": pid})
    if is_service(context, process) and shell:
        restart = ("ollmlx service install",)  # it writes the variables of this terminal into the service's file
    reload = [SafeCommand(f"kill -HUP {pid}")] if changed and all(map(_is_reloadable, different)) else []
    return found(
        "NET004", f"the running daemon does not use these settings: {some_of(list(different))}",
        subject=next(iter(different)), evidence=(f"daemon: pid {pid}", *keys[:SHOWN], why, changed),
        commands=reload or restart, instead=restart if reload else (), severity=Severity.WARNING,
    )  # fmt: skip


def _is_reloadable(key: str) -> bool:
    from ollmlx.reload import RELOADABLE  # imported when needed: it is slow to import

    parts = tuple(key.split("."))
    return parts[:1] in RELOADABLE or parts[:2] in RELOADABLE
