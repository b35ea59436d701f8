"""The check of the settings that the running daemon uses: those of the file or of this terminal may be others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import is_service, restart_daemon
from ollmlx.doctor.inventory import some_of
from ollmlx.doctor.machine import Process
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.plugin.loader import is_hidden
from ollmlx.settings.files import user_file
from ollmlx.settings.report import effective

COMPARED_ELSEWHERE = ("server.host", "storage.models", "storage.state")
TABLES = re.compile(r"(aliases|models|security\.keys|plugins\.[^.]+)\.")
"""Tables whose keys a person chooses. Of others, a key that only one side has is one of another version."""
SHELL = ("ollama", "variable")
STRONGER = (*SHELL, "command line")
SHOWN, LONGEST = 5, 60
UNSET: Final[dict[str, Any]] = {"origin": "default", "source": "default"}
CHANGED = "the settings file was changed after the daemon had started"


@check("in-use", "server", "NET004")
async def in_use(context: CheckContext) -> list[Finding]:
    """Report settings that the daemon does not use: changed after its start, or variables of this terminal only."""
    process = context.daemon_process(await context.ask("/api/daemon") or {})
    told = await context.ask("/api/daemon/settings") if process is not None else None
    rows = (told or {}).get("settings")
    if context.faults or process is None or told is None or not isinstance(rows, list):
        return []
    theirs: dict[str, Any] = {str(row.get("key")): row for row in rows if isinstance(row, dict)}
    known = effective(context.loaded, partial(is_hidden, context.plugins))
    ours: dict[str, Any] = {row["key"]: row for one in known if (row := one.as_json())}
    read = [str(file) for file in told.get("files") or ()]
    own = user_file(context.environ)
    is_new = not read and own is not None and own.path == context.file  # the daemon will find it when it reads again
    same = context.file is None or is_new or str(context.file) in read
    different = {
        key: (theirs.get(key, UNSET), ours.get(key, UNSET))
        for key in sorted({*ours, *theirs}.difference(COMPARED_ELSEWHERE))
        if (key in ours and key in theirs) or TABLES.match(key)
        if _is_other(theirs.get(key, UNSET), ours.get(key, UNSET), same_file=same)
    }
    why = "" if same else f"the daemon reads {', '.join(read) or 'no file'}, and here {context.file} is read"
    return [_not_in_use(context, process, different, why)] if different else []


def _is_other(theirs: dict[str, Any], ours: dict[str, Any], *, same_file: bool) -> bool:
    """Return True if a value was meant for the daemon too, and it has another. What it was started with was meant."""
    if theirs.get("value") == ours.get("value") or ours["origin"] == "command line":
        return False
    if ours["origin"] in SHELL:
        return True
    return theirs["origin"] not in STRONGER and (same_file or ours["origin"] == "file")


def _not_in_use(
    context: CheckContext, process: Process, different: dict[str, tuple[dict[str, Any], dict[str, Any]]], why: str
) -> Finding:
    from ollmlx.reload import RELOADABLE  # imported when needed: it is slow to import

    shell = sorted({ours["source"] for _, ours in different.values() if ours["origin"] in SHELL})
    lines = [f"{key}: {_shown(theirs)} there, {_shown(ours)} here" for key, (theirs, ours) in different.items()]
    why = f"the daemon was started without {some_of(shell)}" if shell else why or CHANGED
    restart: Sequence[str] = restart_daemon(context, {"pid": process.pid})
    if shell and is_service(context, process):
        restart = ("ollmlx service install",)  # it writes the variables of this terminal into the service's file
    now = why == CHANGED and all({(key.partition(".")[0],), tuple(key.split("."))} & RELOADABLE for key in different)
    reload = (SafeCommand(f"kill -HUP {process.pid}"),) if now else ()
    return found(
        "NET004", f"the running daemon does not use these settings: {some_of(list(different))}",
        subject=next(iter(different)), evidence=(f"daemon: {process}", why, *lines[:SHOWN]),
        commands=reload or restart, instead=restart if reload else (), severity=Severity.WARNING,
    )  # fmt: skip


def _shown(row: dict[str, Any]) -> str:
    return f"{str(row.get('value'))[:LONGEST]} ({row['source']})" if "value" in row else "not set"
