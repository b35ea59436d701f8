"""How settings are corrected: the command for a variable, for a word of the file, or the editor at the line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ollmlx.errors.secrets import is_secret_key
from ollmlx.settings.faults import Fault, Origin, likely_key

if TYPE_CHECKING:
    from ollmlx.doctor.context import CheckContext

LINE = 100
BARE = re.compile(r"[A-Za-z0-9_-]+")

Ways = tuple[tuple[str, ...], tuple[str, ...]]
"""What to type, and what to type instead."""


def correct(world: CheckContext, fault: Fault) -> Ways:
    """How a fault goes away."""
    origin = fault.origin
    if origin.kind in ("ollama", "variable"):
        return (f"unset {origin.name}",), ()
    if fault.code == "CFG001":
        return _unreadable(world, origin.name)
    likely = likely_key(fault.path) if fault.code == "CFG003" else None
    return edit(world, origin, fault.path[-1] if fault.path else "", likely)


def _unreadable(world: CheckContext, asked: str) -> Ways:
    file = world.file or Path(asked)
    mend = f"chmod u+r {_shell(file)}" if file.is_file() else f"ollmlx config init {_shell(file)}"
    mends = () if file.is_dir() else (mend,)
    if world.environ.get("OLLMLX_CONFIG") == asked:
        return ("unset OLLMLX_CONFIG",), mends
    return mends, ()


def edit(world: CheckContext, origin: Origin, wrong: str, right: str | None) -> Ways:
    """Replace one word where that is all; else open the file at the line."""
    if origin.kind != "file" or world.file is None:
        return (f"unset {origin.name}",) if origin.kind in ("ollama", "variable") else (), ()
    file, line = _shell(world.file), origin.line
    opened = (f"${{EDITOR:-vi}} +{line or 1} {file}",)
    if right and line and BARE.fullmatch(wrong) and wrong in quote(world, origin):
        return (f"sed -i.bak '{line}s/{wrong}/{right}/' {file}",), opened
    return opened, ()


def quote(world: CheckContext, origin: Origin, *, keyed: bool = True) -> str:
    """The line of the file that is meant; nothing where a secret may stand in it. `keyed`: its key stands in it."""
    if origin.kind != "file" or not origin.line or world.file is None:
        return ""
    try:
        lines = world.file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    line = lines[origin.line - 1].strip() if origin.line <= len(lines) else ""
    secret = is_secret_key(line) or (not keyed and any(map(is_secret_key, lines)))
    return f"> {line[:LINE]}" if line and not secret else ""


def _shell(file: Path) -> str:
    return shlex.quote(str(file))
