"""What the end of a process means: in words, and for whether trying again can help. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from ollmlx.protocol import ExitCode


class Remedy(StrEnum):
    """What could help after a runner ended."""

    RETRY = "retry"
    """A fresh runner, after a pause."""
    MAKE_ROOM = "make_room"
    """Evict others, then try once more."""
    NONE = "none"
    """The same start would end the same way."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The end of a process in words (`was killed by SIGSEGV`), and what could help."""

    text: str
    remedy: Remedy
    label: str
    """A short, stable name for metrics: `exit_1`, `SIGKILL`."""


_CODES: dict[int, tuple[str, Remedy]] = {
    ExitCode.USAGE: ("refused its configuration", Remedy.NONE),
    ExitCode.BAD_MODEL: ("cannot load the model's files", Remedy.NONE),
    ExitCode.PROTOCOL: ("speaks another version of the runner protocol", Remedy.NONE),
    ExitCode.OUT_OF_MEMORY: ("ran out of memory", Remedy.MAKE_ROOM),
    ExitCode.PARENT_GONE: ("thought that the daemon was gone", Remedy.RETRY),
    126: ("could not be executed", Remedy.NONE),
    127: ("could not be found", Remedy.NONE),
}
_SIGNALS: dict[int, tuple[str, Remedy]] = {
    signal.SIGKILL: (" (the system kills like this when memory runs out)", Remedy.MAKE_ROOM),
    signal.SIGSEGV: (" (a crash in native code)", Remedy.RETRY),
    signal.SIGABRT: (" (native code gave up)", Remedy.RETRY),
    signal.SIGBUS: (" (a crash in native code, or a model file that changed while in use)", Remedy.RETRY),
    signal.SIGILL: (" (native code built for another processor)", Remedy.NONE),
}


def explain(returncode: int) -> Meaning:
    """Read a return code as `asyncio` reports it: negative for a signal."""
    if returncode < 0:
        return _explain_signal(-returncode)
    if returncode in _CODES:
        text, remedy = _CODES[returncode]
        return Meaning(f"{text} (exit status {returncode})", remedy, f"exit_{returncode}")
    if returncode == 0:
        return Meaning("ended without being asked (exit status 0)", Remedy.RETRY, "exit_0")
    return Meaning(f"ended with exit status {returncode}", Remedy.RETRY, f"exit_{returncode}")


def _explain_signal(number: int) -> Meaning:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    text, remedy = _SIGNALS.get(number, ("", Remedy.RETRY))
    return Meaning(f"was killed by {name}{text}", remedy, name)
