"""Which daemon has the state folder, as its lock file says; it may listen at another address than this command's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext
    from ollmlx.doctor.processes import Process

LOCK = "ollmlx.lock"


def holder(world: CheckContext) -> Process | None:
    """The daemon's process; None when none lives."""
    try:
        text = (world.settings.state_folder / LOCK).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None
    process = world.processes.get(int(text)) if text.isdigit() else None
    # a process id is used again: another program's command says so, where the system shows it
    if process is None or (process.command and not any("ollmlx" in word for word in process.command)):
        return None
    return process
